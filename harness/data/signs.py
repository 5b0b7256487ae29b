"""Signs that a sample is not proper text: the shares of one token, of repetition, of line breaks, of unreadable bytes.

They are hints for a person and for the watcher, not a filter: poems repeat, tables are full of line breaks.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter

import numpy as np
import numpy.typing as npt

REPEATED_LENGTH = 16
"""Tokens in the runs that are counted as repeated. Runs of 4 repeat in a third of all clean code (decision 0012)."""
SHOWN_CHARACTERS = 200


def token_signs(tokens: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return signs in the tokens of a sample, [S], as shares from 0 to 1."""
    counts = np.unique(tokens, return_counts=True)[1]
    runs = np.lib.stride_tricks.sliding_window_view(tokens, min(REPEATED_LENGTH, len(tokens)))
    num_distinct = len(np.unique(runs, axis=0))
    return {
        "most_common_token_share": round(float(counts.max() / len(tokens)), 4),
        "repeated_share": round(1 - num_distinct / len(runs), 4),
    }


def text_signs(text: str) -> dict[str, float | str]:
    """Return signs in the text of a sample, and its first characters."""
    num_characters = max(1, len(text))
    content = text.encode("utf-8", errors="replace")
    return {
        "newline_share": round(text.count("\n") / num_characters, 4),
        "unreadable_share": round(sum(map(_is_unreadable, text)) / num_characters, 4),
        "repeated_line_share": round(_characters_in_repeated_line(text) / num_characters, 4),
        "compression_ratio": round(len(content) / max(1, len(zlib.compress(content, 6))), 2),
        "text": text[:SHOWN_CHARACTERS],
    }


def _characters_in_repeated_line(text: str) -> int:
    """Count the characters of the line whose repetitions fill most of the text; blank lines do not count."""
    counts = Counter(line for line in text.splitlines() if line.strip())
    return max((len(line) * count for line, count in counts.items() if count > 1), default=0)


def _is_unreadable(character: str) -> bool:
    """Return whether the character is a control, unassigned or private one, or the replacement for a broken one."""
    if character in "\n\r\t":
        return False
    return character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")
