"""Sizes, ages, lists and tables as text for people."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import timedelta


def size_text(num_bytes: int) -> str:
    """Return a number of bytes in the largest unit that gives at least 1."""
    amount, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{num_bytes} B"


def age_text(span: timedelta) -> str:
    """Return a duration in minutes, hours or days."""
    minutes = max(0, int(span.total_seconds())) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"


def listed(words: Sequence[object], most: int = 8) -> str:
    """Return the first `most` words and the number of the others: `3, 5 and 2 more`."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(map(str, words[:most])) + more


_NOT_SHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline; escape sequences begin with one
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction, so that text reads as another
    "\u2028\u2029"  # further ends of lines
    "\ud800-\udfff]"  # bytes of a name that is not UTF-8
)


def printable(text: str) -> str:
    """Return a text as it can be written to a terminal: what would act on the terminal is an escape, as JSON writes it.

    Newlines and tabs stay.
    """
    return _NOT_SHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return a text as `printable` does, with newlines and tabs as escapes too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def is_unicode(text: str) -> bool:
    """Return whether a path, or another argument, can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equally many cells as text in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def duration_text(seconds: float) -> str:
    """Return a duration in the two largest of days, hours, minutes and seconds."""
    total = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        amount, total = divmod(total, size)
        if amount or parts:
            parts.append(f"{amount} {name}")
    return " ".join(parts[:2]) or "0 s"


def moment_text(moment: float) -> str:
    """Return a time in seconds since 1970 for people, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
