"""Writes the documents of files into one folder for each label of theirs, so that each can become a channel."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from data_prep.text.file_kinds import FILES_LIST
from data_prep.text.input_file import InputFile
from data_prep.text.labels import NO_LABEL, label_of
from data_prep.text.origins import Origins, recorded
from data_prep.text.read_documents import Record, Rejection, read_records
from data_prep.text.text_files import written_whole
from data_prep.text.whole_json import BYTE_ORDER_MARK
from harness.channels.provenance import Provenance

OTHER, UNLABELLED = "other", "unlabelled"
"""Folders of documents with rare labels, and of those with none."""
FILE = "00000.jsonl.gz"
MOST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class SplitJob:
    """Input and output of a split."""

    files: Sequence[InputFile]
    folder: Path
    by: str
    """Key of each record that holds the label."""
    text_key: str = "text"
    most_labels: int = 100
    """The most frequent labels that get a folder each; that many files are open at once."""


@dataclass
class Share:
    """The documents of one folder."""

    labels: tuple[str, ...]
    documents: int = 0
    characters: int = 0


@dataclass
class Split:
    """The result of a split."""

    shares: dict[str, Share] = field(default_factory=dict)
    """By the name of the folder, the largest first."""
    rejected: int = 0
    """Lines that are not documents."""


def split_files(job: SplitJob) -> Split:
    """Write the lines of documents as they are, in their order, to `FOLDER/LABEL/00000.jsonl.gz`.

    The input is read twice. Each file appears whole or not at all.

    Raises:
        DataError: A file is damaged or cannot be written, or a label is neither text nor a number.
    """
    counts = Counter(label_of(record, job.by) for _, record in _documents(job, None))
    names = folder_names(counts, job.most_labels)
    result = Split({name: Share(tuple(each for each in names if names[each] == name)) for name in names.values()})
    with ExitStack() as stack:
        origins = stack.enter_context(closing(Origins(job.files)))
        streams: dict[str, IO[bytes]] = {}
        records: dict[str, Callable[[Provenance], None]] = {}
        for name in result.shares:
            output = job.folder / name / FILE
            output.parent.mkdir()
            records[name] = stack.enter_context(recorded(output))
            streams[name] = stack.enter_context(written_whole(output))
        for number, record in _documents(job, result):
            name, text = names[label_of(record, job.by)], str(record.content)
            records[name](origins.of(number, record.line))
            line = record.raw.removeprefix(BYTE_ORDER_MARK)
            streams[name].write(line if line.endswith(b"\n") else line + b"\n")
            result.shares[name].documents += 1
            result.shares[name].characters += len(text)
    return result


def folder_names(counts: Counter[str], most: int) -> dict[str, str]:
    """Return the name of the folder of each label, the most frequent first; every name can be a channel's."""
    names: dict[str, str] = {}
    taken = {OTHER, UNLABELLED, FILES_LIST}
    for label, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if label == NO_LABEL:
            names[label] = UNLABELLED
        elif len(taken) - 3 >= most:
            names[label] = OTHER
        else:
            names[label] = _free_name(_as_name(label), taken)
            taken.add(names[label])
    return names


def _as_name(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-._")[:MOST_NAME] or "label"


def _free_name(name: str, taken: set[str]) -> str:
    # Some file systems take capital letters for small ones.
    small, number, found = {each.lower() for each in taken}, 2, name
    while found.lower() in small:
        found = f"{name}-{number}"
        number += 1
    return found


def _documents(job: SplitJob, result: Split | None) -> Iterator[tuple[int, Record]]:
    """Yield the documents, each with the number of its file."""
    for number, file in enumerate(job.files):
        for record in read_records(file, job.text_key, whole_rows=True):
            if not isinstance(record.content, Rejection):
                yield number, record
            elif result is not None and not record.content.is_empty:
                result.rejected += 1
