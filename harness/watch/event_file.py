"""Scalars out of a TensorBoard event file, whose messages the `tensorboard` package reads, without tensorflow.

Its own reader of files takes damage in the middle for the end, and any length that a record claims to have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import UsageError
from harness.run.lines import open_lines
from harness.text import one_line

_MOST_RECORD_BYTES = 256 * 1024**2
"""The longest record that is read; pictures and graphs are records too."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number that was logged."""

    step: int
    tag: str
    value: float


def read_scalars(path: Path) -> Iterator[Scalar]:
    """Yield the scalars of an event file in the order in which they were written.

    A record that is cut off ends the file, as it does while a run is being written.

    Raises:
        ValueError: The file is not an event file, or is damaged.
        UsageError: The `tensorboard` package is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        raise UsageError(
            f"{path}: reading a TensorBoard event file needs the package `tensorboard`; install it with "
            "`pip install 'harness[train]'`"
        ) from None
    has_event = False
    with open_lines(path) as file:
        for place, content in _records(file):
            try:
                event = Event.FromString(content)
            except Exception as error:  # noqa: BLE001 (the library's own error, from a package that is optional)
                raise ValueError(f"the record at byte {place} is no event: {one_line(str(error))}") from None
            has_event = True
            for value in event.summary.value:
                if (number := _number_of(value)) is not None:
                    yield Scalar(event.step, value.tag, number)
        if not has_event and file.tell():
            raise ValueError("there is no event in it")


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield every record with its place: 8 bytes of length, 4 of checksum, the content, 4 of checksum.

    Raises:
        ValueError: A checksum is wrong.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    while True:
        place = file.tell()
        head = file.read(12)
        if len(head) < 12:
            return
        length, check = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != check or length > _MOST_RECORD_BYTES:
            raise ValueError(f"it is damaged at byte {place}" if place else "there is no event in it")
        body = file.read(length + 4)
        if len(body) < length + 4:
            return
        content = body[:length]
        if masked_crc32c(content) != int.from_bytes(body[length:], "little"):
            raise ValueError(f"it is damaged at byte {place}")
        yield place, content


def _number_of(value: Any) -> float | None:  # noqa: ANN401  (the package has no types)
    """Return the number in a value of a summary; None if it is something else."""
    from tensorboard.util.tensor_util import make_ndarray

    if value.HasField("simple_value"):
        return float(value.simple_value)
    # The shape comes first: an array is made as large as it says, whatever the content is.
    if not value.HasField("tensor") or any(dim.size != 1 for dim in value.tensor.tensor_shape.dim):
        return None
    try:
        array = make_ndarray(value.tensor)
    except (TypeError, ValueError):
        return None
    return float(array.reshape(())) if array.size == 1 and array.dtype.kind in "fiu" else None
