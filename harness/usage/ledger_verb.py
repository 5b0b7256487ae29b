"""The command `harness data ledger`: what a run has used of its data."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError
from harness.plan.repetition import times_text, worth_text
from harness.say import say

if TYPE_CHECKING:
    from harness.usage.ledger import PartUse, RunLedger


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--documents", metavar="PART", help="Count the documents of one part, such as zh/part-00007.")
@click.option("--parts", "by_part", is_flag=True, help="Also show every part.")
@click.option("--json", "as_json", is_flag=True, help="Every row as JSON: by part, phase, attempt and epoch.")
@click.option("--parquet", type=click.Path(path_type=Path), help="Write the rows to this Parquet file.")
def ledger(run: Path, documents: str | None, *, by_part: bool, as_json: bool, parquet: Path | None) -> None:
    """Show what the run in RUN has used of its channels: tokens, epochs, skipped windows.

    Nothing was logged for it: it follows from the order of the data. Tokens are those that stood as input, of the line
    that led to the current weights; abandoned attempts are shown apart.

    \b
    Examples:
      harness data ledger runs/tiny
      harness data ledger runs/tiny --documents zh/part-00007 --json
      harness data ledger runs/tiny --parquet ledger.parquet
    """
    from harness.usage.ledger import RunLedger, write_parquet

    opened = RunLedger(run)
    if documents is not None:
        rows = opened.documents(*_place(documents, opened))
        if parquet is not None:
            write_parquet(parquet, rows)
        if as_json:
            say(json.dumps([asdict(row) for row in rows]))
        elif parquet is None:
            for row in rows:
                say(f"{row.document:>8}  {row.tokens:>12,} of {row.document_tokens:,} tokens, {row.epochs:.2f}x")
        return
    uses = opened.parts()
    if parquet is not None:
        write_parquet(parquet, uses)
    if as_json:
        say(json.dumps([asdict(use) for use in uses]))
    else:
        _show(opened, uses, by_part=by_part)


def _place(text: str, opened: RunLedger) -> tuple[str, str]:
    """Split `zh/part-00007` into channel and part. The channel may be left out if only one has a part of that name.

    Raises:
        UsageError: Several channels have one, or none.
    """
    channel, slash, part = text.partition("/")
    if slash:
        return channel, part
    named = [each.name for each in opened.channels if any(known.name == text for known in each.parts)]
    if len(named) != 1:
        found = "no channel has a part" if not named else f"the channels {', '.join(named)} have a part"
        raise UsageError(f"--documents {text}: {found} of that name. Give channel and part, such as zh/part-00007.")
    return named[0], text


def _show(opened: RunLedger, uses: Sequence[PartUse], *, by_part: bool) -> None:
    from rich.table import Table

    from harness.screen import Screen

    console = Screen()
    epochs = opened.epochs()
    table = Table("channel", "phase", "tokens", "epochs", "skipped", "left behind")
    for name in opened.recipe.channel_names:
        mine = [use for use in uses if use.channel == name]
        for phase in (*(opened.phases if len(opened.phases) > 1 else ()), None):
            chosen = [use for use in mine if phase in (None, use.phase)]
            if chosen:
                passes = sum(epochs.get((name, each), 0.0) for each in opened.phases if phase in (None, each))
                table.add_row(name if phase is None else "", phase or "all", *_sums(chosen, passes))
    console.print(table)
    for name in opened.recipe.channel_names:
        passes = sum(epochs.get((name, each), 0.0) for each in opened.phases)
        if (worth := worth_text(passes)) is not None:
            say(f"WARNING: channel {name} was passed through {times_text(passes)} times. {worth}.", err=True)
    if by_part:
        parts = Table("channel", "part", "tokens", "epochs", "skipped", "left behind")
        for channel, part in dict.fromkeys((use.channel, use.part) for use in uses):
            chosen = [use for use in uses if (use.channel, use.part) == (channel, part)]
            size = opened.tokens_to_train_on(channel, part)
            parts.add_row(channel, part, *_sums(chosen, _kept_tokens(chosen) / size if size else None))
        console.print(parts)


def _sums(uses: Sequence[PartUse], epochs: float | None) -> tuple[str, str, str, str]:
    """Return the sum of tokens, epochs, and the sums of skipped tokens and abandoned tokens."""
    skipped = sum(use.tokens for use in uses if use.is_skipped)
    left = sum(use.tokens for use in uses if not use.is_kept)
    return f"{_kept_tokens(uses):,}", "" if epochs is None else f"{epochs:.3f}", f"{skipped:,}", f"{left:,}"


def _kept_tokens(uses: Sequence[PartUse]) -> int:
    return sum(use.tokens for use in uses if use.is_kept and not use.is_skipped)
