"""Kinds of values in a `config.json`: what a key may hold, and the plain value that is meant.

A whole number may be spelled `8192.0`. Nothing else is guessed: text is no number, and `true` is none either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import CheckpointError

_MAX_SHOWN = 60
_MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Kind:
    """The values that a key may have."""

    meaning: str
    """Completes "is not …"."""
    plain: Callable[[object], object]
    """The plain value; None for a value of another kind."""

    def read(self, key: str, value: object) -> object:
        """Return the plain value of a key.

        Raises:
            CheckpointError: The value is of another kind; names the key.
        """
        found = self.plain(value)
        if found is None:
            raise CheckpointError(f"{key}: {shown(value)} is not {self.meaning}")
        return found


def whole(most: int, least: int = 1) -> Kind:
    """Return the kind of a whole number from `least` to `most`."""

    def plain(value: object) -> object:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        return number if type(number) is int and least <= number <= most else None

    return Kind(f"a whole number from {least} to {most:,}", plain)


def number(least: float, most: float) -> Kind:
    """Return the kind of a number with bounds, both allowed; it is read as a float."""

    def plain(value: object) -> object:
        # A whole number may be larger than any float.
        if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
            return None
        return float(value)  # type: ignore[arg-type]

    return Kind(f"a number from {least:g} to {most:g}", plain)


def _truth(value: object) -> object:
    return value if isinstance(value, bool) else None


def _token_ids(value: object) -> object:
    ids = value if isinstance(value, list) else [value]
    numbers = [int(one) if isinstance(one, float) and one.is_integer() else one for one in ids]
    # Published models say -1 for "none".
    if not all(type(one) is int and -1 <= one < 2**31 for one in numbers):
        return None
    return numbers if isinstance(value, list) else numbers[0]


def _layers(value: object) -> object:
    """Numbers of layers, from 0; none at all is a list too."""
    if not isinstance(value, list) or len(value) > _MAX_LAYERS:
        return None
    return value if all(type(one) is int and 0 <= one < _MAX_LAYERS for one in value) else None


TRUTH = Kind("true or false", _truth)
LAYERS = Kind("a list of numbers of layers", _layers)
TOKEN_IDS = Kind("the id of a token, or a list of such ids", _token_ids)


def same(value: object, other: object) -> bool:
    """Return whether two values are equal, where `true` is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def says_nothing(value: object) -> bool:
    """Return whether a value switches nothing on: `null`, `false`, and what is empty. A zero may be a number."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def shown(value: object) -> str:
    """Return a value of a file as an error shows it: short, and in one line."""
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
