"""Text files made from other text files: their names, writing them whole, the list of what became of each."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

from data_prep.text.file_kinds import FILES_LIST, kind_of
from data_prep.text.input_file import InputFile
from data_prep.text.packed_file import zstandard_library
from harness.errors import DataError
from harness.json_text import parse_json
from harness.run.files import replace_file, replacing


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """The report on one input file."""

    file: str
    """Name of the file that was written."""
    input: str
    input_bytes: int
    documents: int
    kept: int
    characters: int
    kept_characters: int
    dropped: dict[str, int]
    """Documents dropped, by the reason."""


def output_names(files: Sequence[InputFile]) -> list[str]:
    """Return the name under which each file is written; a name that would occur twice, or is ours, gets a number."""
    names: list[str] = []
    for file in files:
        kind = kind_of(file.name)
        is_parquet = kind is not None and kind.content == "parquet"
        name = file.name[: -len(kind.ending)] + ".jsonl.gz" if kind and is_parquet else file.name
        stem, dot, rest = name.partition(".")
        number = 2
        while name in names or name == FILES_LIST:
            name = f"{stem}-{number}{dot}{rest}"
            number += 1
        names.append(name)
    return names


def finished_files(folder: Path) -> dict[str, FileReport]:
    """Report on the files of a finished folder, by name.

    Raises:
        DataError: The list is unreadable.
    """
    file = folder / FILES_LIST
    if not file.exists():
        return {}
    try:
        reports = [FileReport(**entry) for entry in parse_json(file.read_bytes())]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not readable ({error}). Was it edited? Restore it, or delete the folder.") from error
    return {report.file: report for report in reports}


def record_finished(folder: Path, reports: Sequence[FileReport]) -> None:
    """Write the list that makes a folder finished."""
    content = json.dumps([asdict(report) for report in reports], ensure_ascii=False, indent=1)
    replace_file(folder / FILES_LIST, content.encode() + b"\n")


@contextmanager
def written_whole(file: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, compressed as the final name requires, and rename it at the end."""
    try:
        with replacing(file) as raw, _compressed(raw, file) as stream:
            yield stream
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error}). Finished files are untouched: make room, then run the command again."
        ) from error


@contextmanager
def _compressed(raw: IO[bytes], file: Path) -> Iterator[IO[bytes]]:
    kind = kind_of(file.name)
    packing = kind.packing if kind else "plain"
    if packing == "gz":
        # No time in the header: equal input gives equal bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=raw, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
    elif packing == "bz2":
        with bz2.BZ2File(raw, "wb", compresslevel=3) as stream:
            yield cast("IO[bytes]", stream)
    elif packing == "xz":
        with lzma.LZMAFile(raw, "wb", preset=1) as stream:
            yield cast("IO[bytes]", stream)
    elif packing == "zst":
        compressor = zstandard_library(file, "writing").ZstdCompressor(level=3)
        with compressor.stream_writer(raw, closefd=False) as stream:
            yield stream
    else:
        yield raw
