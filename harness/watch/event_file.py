"""Reads scalars from a TensorBoard event file, without TensorBoard.

A file is a row of records: length (uint64, little endian), CRC (4 bytes), that many bytes, CRC (4 bytes). The bytes are
a protocol-buffer `Event`: field 2 step (varint), field 5 summary; in it field 1 value (repeated): field 1 tag, field 2
simple_value (float32), field 8 tensor: field 4 tensor_content (raw bytes), field 5 float_val (packed float32). CRCs are
not checked: a record that is cut off ends the file, as it does while a run is being written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<Q4x")
_FOOTER_BYTES = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number that was logged."""

    step: int
    tag: str
    value: float


def read_scalars(path: Path) -> Iterator[Scalar]:
    """Yield the scalars of an event file in the order in which they were written.

    Raises:
        ValueError: The file is not an event file.
    """
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            (num_bytes,) = _HEADER.unpack(header)
            if num_bytes > 2**31:
                raise ValueError("a record of more than 2 GiB")
            event = file.read(num_bytes)
            if len(event) < num_bytes or len(file.read(_FOOTER_BYTES)) < _FOOTER_BYTES:
                return
            yield from _scalars_of(memoryview(event))


def _scalars_of(event: memoryview) -> Iterator[Scalar]:
    step, summaries = 0, []
    for number, content in _fields(event):
        if number == 2 and isinstance(content, int):
            step = content
        elif number == 5 and isinstance(content, memoryview):
            summaries.append(content)
    for summary in summaries:
        for number, content in _fields(summary):
            if number == 1 and isinstance(content, memoryview):
                tag, value = _tag_and_value(content)
                if value is not None:
                    yield Scalar(step, tag, value)


def _tag_and_value(message: memoryview) -> tuple[str, float | None]:
    tag, value = "", None
    for number, content in _fields(message):
        if number == 1 and isinstance(content, memoryview):
            tag = bytes(content).decode(errors="replace")
        elif number == 2 and isinstance(content, memoryview):
            value = _float(content)
        elif number == 8 and isinstance(content, memoryview):
            raw = next(
                (c for n, c in _fields(content) if n in (4, 5) and isinstance(c, memoryview) and len(c) == 4), None
            )
            value = value if raw is None else _float(raw)
    return tag, value


def _float(raw: memoryview) -> float:
    value: float = struct.unpack("<f", raw)[0]
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and content of each field of a protocol-buffer message: varints as int, the rest as bytes."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        size = 8 if kind == _FIXED64 else 4
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind not in (_FIXED64, _FIXED32):
            raise ValueError(f"wire type {kind} in a record")
        if position + size > end:
            raise ValueError("a field that runs over the end of its record")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a base-128 number and the position after it."""
    number = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise ValueError("a number that runs over the end of its record")
