"""JSON objects in which a field holds what no field of a run's files ever holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

NEVER = (
    "1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 400, '"\\ud800"', "[[0, 9007199254740993]]", '[{"a": null}]',
    "[" * 150 + "]" * 150, "[" * 10_000,
)  # fmt: skip
"""Values as they stand in a file: beyond floats, no Unicode, too deep."""
NEVER_A_COUNT = (str(2**53 + 1), str(-(2**63)), str(2**64), "1e300", "-1", "1.5")
NEVER_A_NUMBER = ("true", '"text"', '"1"', "[]", "{}")
NEVER_A_TEXT = ("true", "7", "1.5", "[]", "{}")
_MARK = "@@"


def damaged(fields: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the object with values that do not fit in the place of each field, one field at a time."""
    for name, value in fields.items():
        others: tuple[str, ...] = ('"text"', "7")
        if isinstance(value, str):
            others = NEVER_A_TEXT
        elif isinstance(value, int | float) and not isinstance(value, bool):
            others = NEVER_A_NUMBER + (NEVER_A_COUNT if isinstance(value, int) else ())
        for odd in (*NEVER, *others):
            yield json.dumps({**fields, name: _MARK}).replace(json.dumps(_MARK), odd).encode()


def without(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the object without each of the fields that it must have."""
    for name in names:
        yield json.dumps({key: value for key, value in fields.items() if key != name}).encode()


def broken(line: bytes) -> Iterator[bytes]:
    """Yield what a line of JSON may have become that is no longer one."""
    yield line[: len(line) // 2]
    yield line.replace(b'"', b"\xff", 1)
    yield line + line
    yield b"[" + line + b"]"
    yield b"x" * (5 * 1024**2)
