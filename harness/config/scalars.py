"""Reads plain YAML words by the YAML 1.2 core rules, and refuses spellings that YAML 1.1 reads differently."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

Scalar = None | bool | int | float | str

_WORDS: dict[str, None | bool] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_EXPONENT = r"(?:[eE][-+]?[0-9]+)?"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(rf"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?){_EXPONENT}")
_LEADING_ZERO = re.compile(rf"([-+]?)0+([0-9]+(?:\.[0-9]*)?{_EXPONENT})")
_OTHER_BASE = re.compile(r"[-+]?0(?:[oO][0-7]+|[xX][0-9a-fA-F]+|[bB][01]+)")
_UNDERSCORES = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_DIGITS = 400
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for a value that was refused, so that the rest of the configuration can still be checked."""

    reason: str


PLACEHOLDER = "FILL_IN"
"""Stands in a starter configuration for a value that only its user knows."""
NOT_FILLED_IN = Unreadable(f"is still to be filled in; write a value in place of {PLACEHOLDER}")


def read_plain(text: str) -> Scalar | Unreadable:
    """Return the value of an unquoted word: null, true, false, a decimal number, or else the text itself.

    `3e-4` is a number, `on` and `24:00:00` are text. Refused: `012`, `0o14`, `0x1f`, `1_000`, `.inf`, `.nan`, and the
    placeholder of a value.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text == PLACEHOLDER:
        return NOT_FILLED_IN
    if text[0] not in "+-.0123456789":
        return text
    if _NOT_FINITE.fullmatch(text):
        return Unreadable(f"{text} is not a finite number; every number here must be one")
    if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        return _read_number(text)
    return _read_doubtful(text)


def _read_number(text: str) -> int | float | Unreadable:
    if len(text) > _MAX_DIGITS:
        return Unreadable(f"a number of {len(text)} characters is too long")
    if _INTEGER.fullmatch(text):
        number = int(text)
        return number if number in _INT64 else Unreadable(f"{text} does not fit into a 64-bit integer")
    value = float(text)
    return value if math.isfinite(value) else Unreadable(f"{text} does not fit into a 64-bit float")


def _read_doubtful(text: str) -> str | Unreadable:
    """Return the word as text, unless YAML 1.1 and 1.2 read it as different numbers."""
    if _OTHER_BASE.fullmatch(text):
        return Unreadable(f"{text} is not a decimal number; write {_decimal(text)}, or put text in quotes")
    if zeros := _LEADING_ZERO.fullmatch(text):
        plain = (zeros[1] + zeros[2]).removeprefix("+")
        return Unreadable(
            f"{text} starts with a zero, which is octal to some readers; write {plain}, or put text in quotes"
        )
    if "_" in text and _UNDERSCORES.fullmatch(text):
        return Unreadable(f"{text} has underscores; write {text.replace('_', '')}, or put text in quotes")
    return text


def _decimal(text: str) -> str:
    return str(int(text, base=0)) if len(text) <= _MAX_DIGITS else "it in decimal"
