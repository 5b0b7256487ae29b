"""Reads the records of a WARC file one after the other, within limits; what is in a record is read by `extraction`.

Lines and headers have a largest size, so that a file of strangers takes no more memory than a page may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from data_prep.text.input_file import InputFile
from harness.errors import DataError
from harness.text import one_line

MOST_HEADER_BYTES = 1 << 20
"""Bytes of the header of a record, with the blank lines before it."""
PAGE_TYPES = frozenset(("response", "resource", "conversion"))
"""Types of records that may hold a page. The others are requests, notes and repetitions."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """A record that may hold a page."""

    number: int
    """Among all records of the file, 1-based."""
    fields: Mapping[str, str]
    """Its header, by names in small letters."""
    content: bytes | None
    """Header and content as they are stored; None if the content is too long."""


def read_warc(stream: IO[bytes], file: InputFile, most_bytes: int) -> Iterator[WarcRecord]:
    """Yield the records of a file that may hold a page; of one with more than `most_bytes` without its content.

    Raises:
        DataError: It is no WARC file, or damaged: what is missing behind that place is unknown.
    """
    number = 0
    while header := _header(stream, file, number + 1):
        number += 1
        fields = _fields_of(header)
        length = fields.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise _damaged(file, number, "its header does not say how long it is")
        left = int(length)
        is_page = fields.get("warc-type", "").lower() in PAGE_TYPES
        content = _taken(stream, left) if is_page and left <= most_bytes else None
        if not (_has_skipped(stream, left) if content is None else len(content) == left):
            raise _damaged(file, number, "it is cut short")
        if is_page:
            yield WarcRecord(number, fields, None if content is None else header + content)


def _header(stream: IO[bytes], file: InputFile, number: int) -> bytes:
    """Return the header of the next record, with the blank line behind it; nothing at the end of the file."""
    budget, lines = MOST_HEADER_BYTES, list[bytes]()
    while line := stream.readline(budget):
        budget -= len(line)
        is_blank = not line.strip(b"\r\n")
        if budget <= 0:
            raise _damaged(file, number, f"its header has more than {MOST_HEADER_BYTES:,} bytes")
        if not lines and is_blank:
            continue
        if not lines and not line.startswith(b"WARC/"):
            begin = one_line(line[:40].decode("utf-8", "replace"))
            raise _damaged(file, number, f"it begins with {begin!r}, and not with WARC/")
        lines.append(line)
        if is_blank and line.endswith(b"\n"):
            return b"".join(lines)
    if lines:
        raise _damaged(file, number, "it is cut short")
    return b""


def _fields_of(header: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in header.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def _taken(stream: IO[bytes], length: int) -> bytes:
    pieces = []
    while length and (piece := stream.read(min(length, _PIECE_BYTES))):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _has_skipped(stream: IO[bytes], length: int) -> bool:
    """Read over bytes, and return whether all of them were there."""
    while length and (piece := stream.read(min(length, _PIECE_BYTES))):
        length -= len(piece)
    return length == 0


def _damaged(file: InputFile, number: int, why: str) -> DataError:
    return DataError(
        f"{file}: record {number}: {why}. The file is damaged, cut short, or no WARC: fetch it again, or leave it out. "
        "(An ARC file becomes a WARC by `warcio recompress`.)"
    )
