"""Reads JSON that anybody may have written, within limits.

Python's own reader takes what no later code expects: `NaN`, numbers beyond any float, halves of surrogate pairs that
cannot be written again, nesting that ends the walk over the value in a `RecursionError`. Everything that the product
reads as JSON comes through here, and the caller then checks the types of what it needs.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from harness.text import printable

MOST_DEPTH = 100
"""Levels of lists and objects. The deepest file that we write has six; published tokenizers have about ten."""
MOST_DIGITS = 300
"""Digits of a whole number, so that it fits a float; published models write 10^30 for "no limit"."""
_MOST_SHOWN = 60

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """Content that is not JSON, or beyond the limits. The text is one line."""


def parse_json(content: bytes | str, *, unique_keys: bool = False) -> Any:  # noqa: ANN401 (any JSON value)
    """Return the value that JSON text stands for. Bytes are UTF-8, with or without a byte order mark.

    Args:
        content: The text.
        unique_keys: Whether a key that an object has twice is an error; else the last one counts.

    Raises:
        JsonError: It is not JSON or not UTF-8, nested deeper than `MOST_DEPTH`, or holds a number that no float holds,
            or text that is not Unicode.
    """
    text = _decoded(content) if isinstance(content, bytes) else content
    try:
        value = json.loads(  # noqa: TID251 (the one place)
            text,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg}, line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JsonError(f"nested deeper than {MOST_DEPTH} levels") from None
    if text.count("[") + text.count("{") > MOST_DEPTH:
        require_shallow(value)
    if _SURROGATE.search(text):
        _require_unicode(value)
    return value


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from None


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError(f"a number of {len(digits)} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonError(f"{_short(digits)} is larger than any float")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not JSON; a number is finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise JsonError(f"{_short(twice)} is there twice")
    return fields


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"


def require_shallow(value: object) -> None:
    """Check that a value is nested no deeper than `MOST_DEPTH`. Goes level by level, so that no depth is too much.

    Raises:
        JsonError: It is.
    """
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise JsonError(f"nested deeper than {MOST_DEPTH} levels")


def _inner(value: object) -> list[object]:
    """Return the lists and objects directly in a value."""
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    return [one for one in inner if isinstance(one, dict | list)]


def _require_unicode(value: object) -> None:
    """Raise JsonError if a text in a shallow value, or a key, holds half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise JsonError(f"{_short(value)} holds half of a surrogate pair, which is no Unicode text") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _require_unicode(key)
            _require_unicode(inner)
    elif isinstance(value, list):
        for inner in value:
            _require_unicode(inner)
