"""Reads documents out of JSONL files in order, and says of every line that is not one why.

A line is one JSON object whose text key holds the document. Files may be plain (`.jsonl`), gzip (`.jsonl.gz`) or
zstandard (`.jsonl.zst`, where the package is installed). A bad line is a record with a reason, never an exception; a
damaged compressed file is an error, because nobody knows how much is missing.
"""

from __future__ import annotations

import glob
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from data_prep.zstandard_file import ZstandardFile
from harness.errors import DataError, UsageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is rejected unread: memory stays bounded, and no honest document is as long as that."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a line is not a document."""

    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an input file: a document, or the reason why it is none."""

    file: Path
    line: int
    """Line number in the file, 1-based."""
    content: str | Rejection
    """The document, or why there is none."""
    file_bytes_read: int
    """Bytes of the file on disk (compressed, if it is) that have been read when this line is reached."""


def find_inputs(arguments: Sequence[str]) -> list[Path]:
    """Files that the arguments (files, folders, glob patterns) name; folders are searched in depth, in sorted order.

    Raises:
        UsageError: an argument names nothing, a file of another kind, or a file that another argument names too.
    """
    files: list[Path] = []
    for argument in arguments:
        found = _find_one(argument)
        if not found:
            raise UsageError(
                f"no input at {argument}: no such file, or no {', '.join(SUFFIXES)} file in the folder or under the "
                "pattern. Check the path."
            )
        files.extend(found)
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UsageError(f"input {file} is named twice: its documents would be doubled. Name every file once.")
        seen.add(file.resolve())
    return files


def _find_one(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise UsageError(f"input {path}: the name must end in one of {', '.join(SUFFIXES)}.")
        return [path]
    # Path.glob takes no absolute patterns, glob.glob does.
    matches = (Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207
    return sorted(match for match in matches if match.is_file() and match.name.endswith(SUFFIXES))


def read_records(file: Path, text_key: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Record]:
    """Yields one record per line of a file.

    Raises:
        DataError: the file cannot be read to its end (damaged or truncated compression, I/O error).
        UsageError: the file is zstandard and the package is not installed.
    """
    line = 0
    decompressed, damage = _decompression(file)
    unreadable: tuple[type[Exception], ...] = (OSError, EOFError, *damage)
    try:
        with file.open("rb") as raw, decompressed(raw) as stream:
            while content := stream.readline(max_line_bytes + 1):
                line += 1
                parsed: str | Rejection
                if len(content) > max_line_bytes and not content.endswith(b"\n"):
                    _skip_to_line_end(stream, max_line_bytes)
                    parsed = Rejection(f"longer than {max_line_bytes} bytes")
                else:
                    parsed = parse_line(content.removeprefix(BYTE_ORDER_MARK) if line == 1 else content, text_key)
                yield Record(file, line, parsed, raw.tell())
    except unreadable as error:
        raise DataError(
            f"{file}: cannot be read on after line {line} ({error}). The file is damaged or cut short: fetch or "
            "compress it again."
        ) from error


def parse_line(content: bytes, text_key: str) -> str | Rejection:
    """The document in a line of JSON, or why there is none."""
    try:
        line = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Rejection(f"not UTF-8 (byte 0x{content[error.start]:02x} at position {error.start})")
    if not line.strip():
        return Rejection("empty line")
    try:
        value = json.loads(line)
    except ValueError as error:
        return Rejection(f"not JSON ({error})")
    except RecursionError:
        return Rejection("not JSON (nested too deeply)")
    if not isinstance(value, dict):
        return Rejection("not a JSON object")
    text = value.get(text_key)
    if not isinstance(text, str):
        return Rejection(f"no key {text_key!r}" if text_key not in value else f"{text_key!r} is not text")
    return _check_text(text)


def _check_text(text: str) -> str | Rejection:
    if not text.strip():
        return Rejection("empty text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair ("\ud800"); no byte sequence stands for it.
        return Rejection(f"not valid Unicode (lone surrogate at position {error.start})")
    return text


def _skip_to_line_end(stream: IO[bytes], piece_bytes: int) -> None:
    while piece := stream.readline(piece_bytes):
        if piece.endswith(b"\n"):
            return


def _decompression(file: Path) -> tuple[Callable[[BinaryIO], IO[bytes]], tuple[type[Exception], ...]]:
    """How to read a file of this kind, and the exceptions (beyond I/O errors) with which damage shows itself."""
    if file.suffix == ".gz":
        return lambda raw: cast("IO[bytes]", gzip.open(raw, "rb")), (zlib.error,)
    if file.suffix == ".zst":
        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError as error:
            raise UsageError(
                f"{file}: reading it needs the Python package zstandard, which is not installed. "
                "Install it, or pack the file with gzip."
            ) from error
        start_frame = zstandard.ZstdDecompressor().decompressobj
        return lambda raw: io.BufferedReader(ZstandardFile(raw, start_frame)), (zstandard.ZstdError,)
    return lambda raw: raw, ()
