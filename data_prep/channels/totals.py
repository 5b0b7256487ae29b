"""Counts what is done while a channel is made, and shows it on a display of `harness.progress`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from harness.channels.source import Totals
from harness.progress import shown

if TYPE_CHECKING:
    from rich.console import Console


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
