"""Limits what a small packed file may stand for: some hundred bytes can be made to fill any memory, and any disk."""

from __future__ import annotations

FREE_BYTES = 128 << 20
"""Plain bytes that any file may have: twice the longest line that is read."""
MOST_TIMES = 1032
"""Plain bytes for each packed byte beyond these. It is the most that gzip reaches; text has about 10, logs 100."""


class ExpansionError(ValueError):
    """A file stands for too much. The text completes "the file …"."""


def check_expansion(plain_bytes: int, packed_bytes: int) -> None:
    """Check that the bytes read of a packed file do not stand for more plain bytes than text can have.

    Raises:
        ExpansionError: It has.
    """
    if plain_bytes > FREE_BYTES + MOST_TIMES * packed_bytes:
        raise ExpansionError(
            f"stands for more than {MOST_TIMES:,} times its own size, and more than {FREE_BYTES >> 20} MiB: no text is "
            "packed like that. If it is what you mean to read, unpack it and name what was in it"
        )
