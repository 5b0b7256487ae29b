"""Reads and checks the header of a `.safetensors` file that anybody may have written (its parts: `safetensors_file`).

The library that reads the tensors checks most of it too. It takes the last of two tensors of one name, where another
reader takes the first, and as much memory as a header of 100 MB asks for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.checkpoints.tiling import Shape
from harness.run.files import open_regular, refusal

MAX_HEADER_BYTES = 32 * 1024**2
"""A larger header is refused: of 100,000 tensors it has a third of that."""
MOST_DIMENSIONS = 16
MOST_NAME_LENGTH = 512
_MOST_NUMBER = 2**53
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16},
    **{"C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Number formats of the library, and the bits of a number."""

Header = Mapping[str, tuple[Shape, str]]
"""Shape and number format of each tensor, by name."""


def read_header(path: Path) -> Header:
    """Return the header of a file, through links.

    Raises:
        CheckpointError: The file cannot be read, or its header does not describe its bytes exactly.
    """
    try:
        with os.fdopen(open_regular(Path(os.path.realpath(path, strict=True))), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
                raise CheckpointError(f"{path} is damaged or truncated: it ends within its header.")
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} has a header of more than {MAX_HEADER_BYTES // 1024**2} MiB.")
            content = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} {refusal(path, error)}.") from error
    try:
        return _checked(parse_json(content, unique_keys=True), size - _LENGTH_BYTES - length)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or truncated: its header is wrong: {error}.") from None


def _checked(fields: object, num_bytes: int) -> Header:
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    texts = fields.pop(_METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise ValueError(f"{_METADATA} holds something else than text")
    header: dict[str, tuple[Shape, str]] = {}
    ranges: list[tuple[int, int]] = []
    for name, fields_of in fields.items():
        if not name or len(name) > MOST_NAME_LENGTH or not name.isprintable():
            raise ValueError(f"it gives a tensor the name {ascii(name)[:80]}")
        try:
            shape, kind, begin, end = _tensor(fields_of)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        header[name] = shape, kind
        ranges.append((begin, end))
    _require_whole(ranges, num_bytes)
    return header


def _tensor(fields: Any) -> tuple[Shape, str, int, int]:  # noqa: ANN401 (what a file holds)
    """Return shape, number format, begin and end of a tensor."""
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("it has other keys than dtype, shape and data_offsets")
    kind, shape, offsets = fields["dtype"], _counts(fields["shape"]), _counts(fields["data_offsets"])
    if not isinstance(kind, str) or kind not in _BITS:
        raise ValueError(f"its number format is {ascii(kind)[:40]}")
    if len(shape) > MOST_DIMENSIONS or math.prod(shape) > _MOST_NUMBER:
        raise ValueError(f"its shape is {str(list(shape))[:80]}")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"its data_offsets are {str(list(offsets))[:80]}")
    if math.prod(shape) * _BITS[kind] != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{offsets[1] - offsets[0]:,} bytes are not {list(shape)} numbers of {kind}")
    return shape, kind, offsets[0], offsets[1]


def _counts(value: object) -> Shape:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each <= _MOST_NUMBER for each in value):
        raise ValueError(f"{ascii(value)[:40] if not isinstance(value, dict) else 'an object'} is no list of counts")
    return tuple(value)


def _require_whole(ranges: Iterable[tuple[int, int]], num_bytes: int) -> None:
    """Check that the tensors lie one behind the other, without gaps, up to the end of the file."""
    at = 0
    for begin, end in sorted(ranges):
        if begin != at:
            raise ValueError(f"bytes {min(at, begin):,} to {max(at, begin):,} belong to no tensor, or to two")
        at = end
    if at != num_bytes:
        raise ValueError(f"its tensors have {at:,} bytes, the file has {num_bytes:,}")
