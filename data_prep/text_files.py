"""Goes through text files one by one and writes, for each, a file of the same name with the lines that are kept.

A file is there whole or not at all, together with its entry in `files.json`; so an interrupted call goes on with the
first file that is not listed. A kept line is the line of the input, byte for byte: other keys stay.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from data_prep.documents import Record, Rejection, read_records
from data_prep.indexed_writer import PARTIAL, write_whole
from data_prep.input_files import InputFile, file_bytes
from harness.errors import DataError, UsageError

FILES_LIST = "files.json"
DROPPED = ".dropped"
"""Ending of the list of dropped lines. None of the names ends as an input does: the folder is the next step's input."""

Judge = Callable[[list[str]], list[str | None]]
"""For each of some texts, why it is dropped; None to keep it."""
BATCH_DOCUMENTS = 1024


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What became of one input file."""

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
    """The name under which each file is written; one that would occur twice gets a number.

    Raises:
        UsageError: there are none.
    """
    names: list[str] = []
    for file in files:
        name = file.name.removesuffix(".parquet") + ".jsonl.gz" if file.suffix == ".parquet" else file.name
        stem, dot, rest = name.partition(".")
        number = 2
        while name in names:
            name = f"{stem}-{number}{dot}{rest}"
            number += 1
        names.append(name)
    return names


def filter_file(file: InputFile, output: Path, text_key: str, judge: Judge) -> FileReport:
    """Writes the documents of a file that the judge keeps, and a list of those that it drops (with line and reason).

    Raises:
        DataError: the input is damaged, or the output cannot be written.
    """
    dropped: dict[str, int] = {}
    counts = {"documents": 0, "kept": 0, "characters": 0, "kept_characters": 0}
    list_file = output.with_name(output.name + DROPPED)
    with _written_whole(output) as kept_lines, _written_whole(list_file) as dropped_lines:
        for batch in _batches(read_records(file, text_key)):
            texts = [record.content for record in batch if isinstance(record.content, str)]
            verdicts = iter(judge(texts))
            for record in batch:
                content = record.content
                reason = f"not a document: {content.reason}" if isinstance(content, Rejection) else next(verdicts)
                size = len(content) if isinstance(content, str) else 0
                counts["documents"] += 1
                counts["characters"] += size
                if reason is None:
                    counts["kept"] += 1
                    counts["kept_characters"] += size
                    kept_lines.write(_line(record, text_key))
                else:
                    name = reason.partition(":")[0]
                    dropped[name] = dropped.get(name, 0) + 1
                    entry = {"line": record.line, "reason": reason}
                    dropped_lines.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    return FileReport(
        file=output.name, input=str(file), input_bytes=file_bytes(file), dropped=dict(sorted(dropped.items())), **counts
    )


def finished_files(folder: Path) -> dict[str, FileReport]:
    """Reports on the files that are done, by name.

    Raises:
        DataError: the list is unreadable.
    """
    file = folder / FILES_LIST
    if not file.exists():
        return {}
    try:
        reports = [FileReport(**entry) for entry in json.loads(file.read_bytes())]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not readable ({error}). Was it edited? Restore it, or delete the folder.") from error
    return {report.file: report for report in reports}


def record_finished(folder: Path, reports: Sequence[FileReport]) -> None:
    """Rewrites the list of files that are done."""
    content = json.dumps([asdict(report) for report in reports], ensure_ascii=False, indent=1)
    write_whole(folder / FILES_LIST, content.encode() + b"\n")


def _line(record: Record, text_key: str) -> bytes:
    if not record.raw:
        return json.dumps({text_key: record.content}, ensure_ascii=False).encode() + b"\n"
    return record.raw if record.raw.endswith(b"\n") else record.raw + b"\n"


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _written_whole(file: Path) -> Iterator[IO[bytes]]:
    """Opens a file beside its name, compressed as the name says, and renames it at the end."""
    partial = file.with_name(file.name + PARTIAL)
    try:
        with partial.open("wb") as raw, _compressed(raw, file) as stream:
            yield stream
        partial.replace(file)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error}). Finished files are untouched: make room, then run the command again."
        ) from error


@contextmanager
def _compressed(raw: IO[bytes], file: Path) -> Iterator[IO[bytes]]:
    if file.suffix == ".gz":
        # No time in the header: equal input gives equal bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=raw, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
    elif file.suffix == ".zst":
        try:
            library: Any = importlib.import_module("zstandard")
        except ImportError as error:
            raise UsageError(f"{file}: writing it needs the Python package zstandard. Install it.") from error
        with library.ZstdCompressor(level=3).stream_writer(raw, closefd=False) as stream:
            yield stream
    else:
        yield raw
