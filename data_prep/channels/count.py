"""Counts what is in channels, from their lists of parts and the records of their making; reads no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.channels.source import read_source
from harness.data.files.opened import dtype_of, parts_of

UNFINISHED = "unfinished: the call that makes it was interrupted or still runs"


def unfinished_note(path: Path) -> str | None:
    """Return a warning if a channel does not have all of its input yet.

    Raises:
        DataError: `source.json` is unreadable.
    """
    recorded = read_source(path)
    if recorded is None or recorded.finished is not None:
        return None
    return f"WARNING: {path} is {UNFINISHED}; what it has now is counted"


@dataclass(frozen=True, kw_only=True)
class ChannelCount:
    """The size of a channel."""

    channel: str
    path: str
    parts: int
    documents: int
    tokens: int
    bytes: int
    """Size of its `.bin` files."""
    dtype: str
    """Number format of the tokens."""
    finished: bool | None
    """True if all input is in it; None if its source is not known."""
    characters: int | None = None
    """Characters of its documents; None while it is not finished or if it is not known."""
    rejected: int | None = None
    """Lines of the input that were not documents."""

    @property
    def characters_per_token(self) -> float | None:
        """Mean number of characters in a token."""
        return self.characters / self.tokens if self.characters and self.tokens else None


def count_channel(path: Path) -> ChannelCount:
    """Count one channel folder or bare prefix.

    Raises:
        DataError: It has no finished part, or a file of one is missing.
    """
    parts = parts_of(path)
    recorded = read_source(path)
    totals = recorded.finished if recorded else None
    return ChannelCount(
        channel=path.resolve().name,
        path=str(path),
        parts=len(parts),
        documents=sum(part.num_documents for part in parts),
        tokens=sum(part.num_tokens for part in parts),
        bytes=sum(part.bin_bytes for part in parts),
        dtype=dtype_of(parts[0]),
        finished=None if recorded is None else totals is not None,
        characters=totals.characters if totals and not totals.dropped else None,
        rejected=totals.rejected if totals else None,
    )
