"""The `harness data` commands that look into finished channels: verify, count, show, sample."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import EXIT_BAD_DATA
from harness.finite_range import FiniteRange
from harness.limits import MOST_COUNT, MOST_LAUNCHES, MOST_SEED, MOST_STEPS, MOST_THREADS, MOST_TOKENS
from harness.say import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.channels.show import ShownDocument
    from data_prep.channels.verify_channel import Expectation
    from harness.tokenizers.tokenizer import Tokenizer

CHANNELS = click.argument("channels", nargs=-1, required=True, type=click.Path(path_type=Path))
CHANNEL = click.argument("channel", type=click.Path(path_type=Path))
TOKENIZER = click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="The one that made it.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
MAX_TOKENS = click.option(
    "--max-tokens", type=click.IntRange(1, MOST_TOKENS), help="Show at most this many tokens of each."
)


@click.command()
@CHANNELS
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Check the ids against this one's vocabulary.")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), default=4, show_default=True, help="Parts read at once."
)
@click.option(
    "--max-lost-share",
    type=FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of characters, or of unknown tokens, that may be lost.",
)
@JSON
def verify(
    *, channels: tuple[Path, ...], tokenizer: Path | None, threads: int, max_lost_share: float, as_json: bool
) -> None:
    """Read every byte of channels and say what is wrong: structure, hashes, ids, ends of documents, lost text.

    \b
    Examples:
      harness data verify data/zh
      harness data verify data/ --tokenizer tokenizer.model --json

    CHANNELS are channel folders, a folder of them, or prefixes of .bin/.idx pairs. Without --tokenizer the vocabulary
    is the one recorded in the channel, if it is; with it unknown tokens are counted, and documents are read as text.
    Doubtful is what may be meant so: symbols of borders inside documents, documents without them, a channel that is
    not finished. Exits with 65 if anything is wrong.
    """
    from data_prep.channels.count import UNFINISHED
    from data_prep.channels.resume_point import totals_so_far
    from data_prep.channels.verdict import Verdict, judge
    from data_prep.channels.verify_channel import verify_parts
    from harness.channels.source import read_source
    from harness.data.files.opened import channel_folders, parts_of
    from harness.progress import shown
    from harness.screen import Screen
    from harness.tokenizers.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer, needs_end=False) if tokenizer else None
    verdicts: dict[str, Verdict] = {}
    for folder in channel_folders(channels):
        if opened is not None:
            _check_tokenizer(folder, opened)
        parts, expected, recorded = parts_of(folder), _expectation(folder, opened), read_source(folder)
        num_bytes = sum(part.bin_bytes for part in parts)
        with shown(f"verify {folder}", num_bytes, Screen(stderr=True)) as progress:
            reports = verify_parts(parts, expected, threads, progress)
        totals = totals_so_far(folder, recorded) if recorded else None
        verdict = judge(reports, expected, totals, max_lost_share)
        if recorded is not None and recorded.finished is None:
            documents = sum(report.documents for report in reports)
            verdict = replace(verdict, doubts=(f"{UNFINISHED}; {documents:,} documents so far", *verdict.doubts))
        verdicts[str(folder)] = verdict
    if as_json:
        say(json.dumps({path: verdict.as_json() for path, verdict in verdicts.items()}, indent=1))
    else:
        for path, verdict in verdicts.items():
            say(verdict.describe(path))
    if any(verdict.judgement == "BAD" for verdict in verdicts.values()):
        sys.exit(EXIT_BAD_DATA)


@click.command()
@CHANNELS
@JSON
def count(*, channels: tuple[Path, ...], as_json: bool) -> None:
    """Count parts, documents, tokens and bytes of channels.

    \b
    Examples:
      harness data count data/
      harness data count data/zh data/en --json

    CHANNELS are channel folders, a folder of them, or prefixes of .bin/.idx pairs.
    """
    from data_prep.channels.count import count_channel, unfinished_note
    from harness.data.files.opened import channel_folders

    folders = channel_folders(channels)
    for note in filter(None, map(unfinished_note, folders)):
        say(note, err=True)
    counts = [count_channel(path) for path in folders]
    if as_json:
        say(json.dumps([asdict(found) for found in counts], indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    from harness.screen import Screen

    table = Table("channel", "parts", "documents", "tokens", "share", "GB", "dtype", "characters/token", "finished")
    total = sum(found.tokens for found in counts)
    for found in counts:
        ratio = found.characters_per_token
        table.add_row(
            found.channel,
            f"{found.parts:,}",
            f"{found.documents:,}",
            f"{found.tokens:,}",
            f"{found.tokens / total:.1%}" if total else "",
            f"{found.bytes / 1e9:.3f}",
            found.dtype,
            f"{ratio:.2f}" if ratio else "",
            {True: "yes", False: "no", None: "unknown"}[found.finished],
        )
    Screen(width=None if sys.stdout.isatty() else 120).print(table)


@click.command()
@click.argument("channel", metavar="CHANNEL|RUN", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The one that made it. With --step: the run's own.")
@click.option("--step", type=click.IntRange(1, MOST_STEPS), help="Show what a run was trained on in this step.")
@click.option(
    "--attempt", type=click.IntRange(0, MOST_LAUNCHES), help="With --step, if it was done again. Default: the last."
)
@click.option(
    "--top",
    type=click.IntRange(1, MOST_COUNT),
    default=10,
    show_default=True,
    help="With --step: number of samples to show.",
)
@click.option(
    "--document", "numbers", type=click.IntRange(0, MOST_COUNT), multiple=True, help="Its number, from 0. Repeatable."
)
@click.option("--part", help="Count the numbers within this part, as evidence of a spike does.")
@click.option("--ids", is_flag=True, help="Show the token ids too.")
@MAX_TOKENS
@JSON
def show(  # noqa: PLR0913 - one argument per option
    *,
    channel: Path,
    tokenizer: Path | None,
    step: int | None,
    attempt: int | None,
    top: int,
    numbers: tuple[int, ...],
    part: str | None,
    ids: bool,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Decode documents of a channel by their number, or the samples that a step of a run was trained on.

    With --step the samples that look most like dirt come first: line breaks, one token, one line or stretch again and
    again, unreadable characters, text that compresses too well, duplicates within the step; with evidence of the step
    also those whose loss is far from what is usual.

    \b
    Examples:
      harness data show data/zh --tokenizer tokenizer.model --document 0 --document 17
      harness data show data/zh --tokenizer tokenizer.model --part part-00003 --document 5 --ids
      harness data show runs/tiny --step 120 --top 5
    """
    if step is not None:
        from harness.usage.steps_verbs import show_step

        show_step(channel, step, attempt, tokenizer=tokenizer, top=top, max_tokens=max_tokens, as_json=as_json)
        return
    if tokenizer is None:
        raise click.UsageError(
            "Missing option '--tokenizer': the one that made the channel. (Or give --step and a run.)"
        )
    from data_prep.channels.show import find_documents, number_in_channel
    from harness.data.files.opened import parts_of
    from harness.tokenizers.tokenizer import open_tokenizer

    parts = parts_of(channel)
    wanted = [number_in_channel(parts, part, number) if part else number for number in numbers or (0,)]
    opened = open_tokenizer(tokenizer, needs_end=False)
    _check_tokenizer(channel, opened)
    _print_documents(list(find_documents(parts, wanted, opened, max_tokens, _borders(channel))), as_json, ids)


@click.command()
@CHANNEL
@TOKENIZER
@click.option("--count", "num_documents", type=click.IntRange(1, MOST_COUNT), default=3, show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(-MOST_SEED, MOST_SEED),
    default=0,
    show_default=True,
    help="Equal seeds draw equal documents.",
)
@MAX_TOKENS
@JSON
def sample(  # noqa: PLR0913 - one argument per option
    *, channel: Path, tokenizer: Path, num_documents: int, seed: int, max_tokens: int | None, as_json: bool
) -> None:
    """Decode random documents of a channel.

    \b
    Example:
      harness data sample data/zh --tokenizer tokenizer.model --count 5 --max-tokens 200
    """
    from data_prep.channels.show import find_documents, random_numbers
    from harness.data.files.opened import parts_of
    from harness.tokenizers.tokenizer import open_tokenizer

    parts = parts_of(channel)
    opened = open_tokenizer(tokenizer, needs_end=False)
    _check_tokenizer(channel, opened)
    numbers = random_numbers(parts, num_documents, seed)
    _print_documents(list(find_documents(parts, numbers, opened, max_tokens, _borders(channel))), as_json, ids=False)


def _expectation(folder: Path, tokenizer: Tokenizer | None) -> Expectation:
    """Return what the tokens of a channel should be: by its own record, else by the tokenizer."""
    from data_prep.channels.verify_channel import Expectation
    from harness.channels.source import read_source

    recorded = read_source(folder)
    source = recorded.source if recorded else None
    if tokenizer is None:
        if source is None:
            return Expectation()
        return Expectation(
            vocab_size=source.tokenizer.vocab_size,
            end_id=source.end_of_document_id,
            begin_id=source.begin_of_document_id,
        )
    end = tokenizer.symbols.end
    return Expectation(
        vocab_size=tokenizer.vocab_size,
        end_id=source.end_of_document_id if source else end.id if end else None,
        begin_id=source.begin_of_document_id if source else None,
        unknown_id=tokenizer.symbols.unknown_id,
        pieces=tokenizer.pieces() if tokenizer.bytes_per_token() is not None else None,
    )


def _borders(channel: Path) -> tuple[int | None, int | None]:
    """Return the symbols before and behind the documents of a channel, as far as it records them."""
    from harness.channels.source import read_source

    recorded = read_source(channel)
    return (
        (None, None) if recorded is None else (recorded.source.begin_of_document_id, recorded.source.end_of_document_id)
    )


def _check_tokenizer(channel: Path, tokenizer: Tokenizer) -> None:
    from harness.channels.made_with import require_tokenizer

    for note in require_tokenizer(channel, tokenizer):
        say(note, err=True)


def _print_documents(documents: Sequence[ShownDocument], as_json: bool, ids: bool) -> None:
    if as_json:
        found = [asdict(document) | {"provenance": document.provenance.to_json()} for document in documents]
        say(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for document in documents:
        place = f"document {document.number} ({document.part}, number {document.document} in it)"
        cut = f", the first {len(document.ids)} shown" if len(document.ids) < document.tokens else ""
        say(f"── {place}, {document.tokens:,} tokens{cut}", bold=True)
        if document.provenance.file:
            say(f"   from {document.provenance.in_words()}")
        # Control characters of a document must not steer the terminal.
        say(document.text)
        if ids:
            say(" ".join(map(str, document.ids)))
