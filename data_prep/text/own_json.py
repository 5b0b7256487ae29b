"""Reads the small JSON files that these commands keep for themselves, and checks what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.json_text import parse_json
from harness.run.files import read_regular

MOST_BYTES = 1 << 28
"""A report on a million files has about that."""
MOST_COUNT = 2**53
"""No count of lines, characters or bytes comes near to it."""
_MOST_SHOWN = 60


def read_own(file: Path) -> Any:  # noqa: ANN401 (any JSON value)
    """Return the value of a file.

    Raises:
        OSError: It cannot be read, or is a link or no regular file.
        ValueError: It is no JSON within limits. The text is one line.
    """
    content = read_regular(file, MOST_BYTES)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return parse_json(content)


def fields_of(value: object, what: str = "it") -> dict[str, Any]:
    """Return a value that is an object.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_shown(value)}, and not an object")
    return dict(value)


def counts_of(value: object, what: str = "it") -> dict[str, int]:
    """Return a value that is an object of counts.

    Raises:
        ValueError: It is something else.
    """
    fields = fields_of(value, what)
    for name, count in fields.items():
        if type(count) is not int or not 0 <= count <= MOST_COUNT:
            raise ValueError(f"{name} is {_shown(count)}, and not a whole number, 0 or more")
    return fields


def text_of(value: object, what: str) -> str:
    """Return a value that is text.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {_shown(value)}, and not text")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
