"""Counts what is done while a channel is made, and shows it on a display of `harness.progress`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.progress import shown

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Totals:
    """Running counts over the input, including what an earlier, interrupted call has written."""

    lines: int = 0
    rejected: int = 0
    """Lines that were not documents; they are listed in `rejected.jsonl`."""
    documents: int = 0
    tokens: int = 0
    """Tokens written, the end-of-document tokens included."""
    characters: int = 0
    """Unicode characters of the documents."""
    split: int = 0
    """Documents that were longer than allowed and were cut into several."""
    dropped: int = 0
    """Documents that were longer than allowed and were left out."""

    @property
    def rejected_share(self) -> float:
        """Rejected lines, as a share of all lines read."""
        return self.rejected / self.lines if self.lines else 0.0

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters in a token: the first number to look at in a tokenizer."""
        return self.characters / self.tokens if self.tokens else 0.0


class Progress(Protocol):
    """Called after every batch, from one thread."""

    def __call__(self, totals: Totals, bytes_read: int) -> None:
        """Take note of the counts so far and of the input bytes read so far (as on disk)."""


@contextmanager
def shown_progress(title: str, total_bytes: int, console: Console) -> Iterator[Progress]:
    """Show a bar, or lines, with the counts."""
    seen_bytes = 0
    with shown(title, total_bytes, console) as progress:

        def show(totals: Totals, bytes_read: int) -> None:
            nonlocal seen_bytes
            progress(bytes_read - seen_bytes, describe(totals))
            seen_bytes = bytes_read

        yield show


def describe(totals: Totals) -> str:
    """Return the counts as one phrase."""
    rejected = f", {totals.rejected:,} rejected" if totals.rejected else ""
    return f"{totals.documents:,} documents, {totals.tokens:,} tokens{rejected}"
