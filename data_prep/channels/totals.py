"""Shows the counts of a channel: while it is made on a display of `harness.progress`, and at the end in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from data_prep.channels.channel_job import REJECTED_FILE
from harness.channels.source import Totals
from harness.progress import shown

if TYPE_CHECKING:
    from harness.screen import Screen


class Progress(Protocol):
    """Called after every batch, from one thread."""

    def __call__(self, totals: Totals, bytes_read: int) -> None:
        """Take note of the counts so far and of the input bytes read so far (as on disk)."""


@contextmanager
def shown_progress(title: str, total_bytes: int, console: Screen) -> Iterator[Progress]:
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


def counts(totals: Totals) -> str:
    """Return the counts at the end as one phrase."""
    return (
        f"{totals.documents:,} documents, {totals.tokens:,} tokens, "
        f"{totals.characters_per_token:.2f} characters per token"
    )


def parts_text(num_parts: int) -> str:
    """Return a number of parts in words."""
    return "1 part" if num_parts == 1 else f"{num_parts:,} parts"


def losses(totals: Totals, folder: Path) -> Iterator[str]:
    """Yield a line for everything of the input that is not in the channel as it was."""
    if totals.split or totals.dropped:
        yield f"  too long: {totals.split:,} documents split, {totals.dropped:,} dropped"
    if totals.rejected:
        share = f"{totals.rejected:,} of {totals.written_lines:,} lines ({totals.rejected_share:.2%})"
        yield f"  rejected {share}, listed in {folder / REJECTED_FILE}"
    if totals.symbols_inside:
        yield (
            f"  WARNING: text within documents became {totals.symbols_inside:,} times the symbol that stands before or "
            "behind documents (a symbol that is ordinary text to the tokenizer): choose another --end-of-document"
        )
    if totals.unknown_tokens or totals.lost_characters or totals.lost_white_space:
        yield (
            f"  lost: {totals.unknown_tokens:,} tokens ({totals.unknown_share:.4%}) stand for unknown text; of "
            f"{totals.decoded_characters:,} characters decoded again {totals.lost_share:.4%} did not come back, and "
            f"white space of {totals.lost_white_space_share:.4%}"
        )
    if totals.empty:
        yield f"  {totals.empty:,} empty lines and documents left out"
