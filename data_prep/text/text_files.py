"""Text files made from other text files: their names, writing them whole, the list of what became of each."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from data_prep.text.file_kinds import FILES_LIST, kind_of
from data_prep.text.input_file import InputFile
from data_prep.text.own_json import counts_of, fields_of, read_own, text_of
from data_prep.text.packed_file import zstandard_library
from harness.errors import DataError
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
    written: dict[str, int] = field(default_factory=dict)
    """Names and bytes of the files that were written for it; empty in what earlier versions recorded."""
    hashes: dict[str, str] = field(default_factory=dict)
    """xxh3 of each of these files."""
    languages: dict[str, int] = field(default_factory=dict)
    """Documents of each language, where rules asked for it."""
    dropped_by_language: dict[str, int] = field(default_factory=dict)
    """Documents dropped, by `language/reason`."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Documents to which a rule was not applied, because it does not know the language, by `language/rule`."""


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
        entries = read_own(file)
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        reports = [report_of(entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unreadable(file, error) from error
    return {report.file: report for report in reports}


def unreadable(file: Path, error: Exception) -> DataError:
    """Return the error about a file of a folder of text that is not as it was written."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
    return DataError(f"{file}: not readable ({reason}). Was it edited? Restore it, or delete the folder.")


def report_of(value: object) -> FileReport:
    """Return the report on a file that JSON holds.

    Raises:
        ValueError, TypeError, KeyError: It holds something else.
    """
    fields = fields_of(value, "a report")
    file, source = text_of(fields.pop("file"), "file"), text_of(fields.pop("input"), "input")
    if Path(file).name != file:
        raise ValueError(f"file is {file[:80]!r}, and not the name of a file in the folder")
    dropped = counts_of(fields.pop("dropped"), "dropped")
    further = ("written", "languages", "dropped_by_language", "unknown")
    counts = {name: counts_of(fields.pop(name, {}), name) for name in further}
    hashes = {name: text_of(each, name) for name, each in fields_of(fields.pop("hashes", {}), "hashes").items()}
    numbers = counts_of(fields)
    return FileReport(**_report_fields(file=file, input=source, dropped=dropped, hashes=hashes, **counts, **numbers))


def _report_fields(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 (checked above)
    return fields


def record_finished(folder: Path, reports: Sequence[FileReport]) -> None:
    """Write the list that makes a folder finished."""
    content = json.dumps([asdict(report) for report in reports], ensure_ascii=False, indent=1)
    replace_file(folder / FILES_LIST, content.encode() + b"\n")


def require_written(folder: Path, reports: Sequence[FileReport]) -> None:
    """Check that the files are there as they were written, before a folder is called finished.

    Raises:
        DataError: One is missing, or of another size.
    """
    for name, num_bytes in ((name, size) for report in reports for name, size in report.written.items()):
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != num_bytes:
            there = "is missing" if found is None else f"has {found:,} bytes"
            raise DataError(
                f"{file}: was written with {num_bytes:,} bytes, and {there}: something was removed or replaced. Leave "
                "the folder alone, delete it, and run the same command again."
            )


@contextmanager
def written_whole(file: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, compressed as the final name requires, and rename it at the end."""
    given_up: BaseException | None = None
    try:
        with replacing(file) as raw, _compressed(raw, file) as stream:
            try:
                yield stream
            except BaseException as reason:
                given_up = reason
                raise
    except OSError as error:
        if given_up is not None and given_up is not error:
            raise given_up from None  # on a full disk closing fails too
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
