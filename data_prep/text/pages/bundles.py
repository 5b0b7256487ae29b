"""Puts input files of pages together: the text of many small files becomes one file of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.text.file_kinds import PAGES
from data_prep.text.input_file import InputFile
from data_prep.text.text_files import output_names

MOST_FILES = 1000
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Bundle:
    """Input files whose text goes to one file."""

    name: str
    """Of that file."""
    files: tuple[InputFile, ...]
    size: int
    """Bytes of the input files."""


def bundles_of(files: Sequence[InputFile], sizes: Sequence[int]) -> list[Bundle]:
    """Return the bundles of files of these sizes, in order: an archive is one of its own, and so are runs of others."""
    groups: list[list[int]] = []
    is_open = False
    for number, file in enumerate(files):
        is_page = _is_page(file)
        if is_open and is_page and _has_room([sizes[other] for other in groups[-1]], sizes[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
        is_open = is_page
    wanted, runs = [], 0
    for group in groups:
        first = files[group[0]]
        kind = PAGES.kind_of(first.name)
        if _is_page(first) or kind is None:
            wanted.append(Path(f"pages-{runs:05d}.jsonl.gz"))
            runs += 1
        else:
            wanted.append(Path(first.name[: -len(kind.ending)] + ".jsonl.gz"))
    names = output_names(wanted)
    return [
        Bundle(name, tuple(files[number] for number in group), sum(sizes[number] for number in group))
        for name, group in zip(names, groups, strict=True)
    ]


def _is_page(file: InputFile) -> bool:
    kind = PAGES.kind_of(file.name)
    return kind is not None and kind.is_one_page


def _has_room(there: Sequence[int], size: int) -> bool:
    return len(there) < MOST_FILES and sum(there) + size <= MOST_BYTES
