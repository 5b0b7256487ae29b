"""The `harness data` commands that put channels together: merge, mix."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError
from harness.finite_range import FiniteRange
from harness.limits import MOST_EPOCHS, MOST_TOKENS
from harness.say import say

if TYPE_CHECKING:
    from data_prep.channels.mix import MixPlan
    from data_prep.corpus.config import MixConfig

CHANNELS = click.argument("channels", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.command()
@CHANNELS
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The channel folder to make.")
@click.option(
    "--tokens-per-part", type=click.IntRange(1, MOST_TOKENS), help="Make parts of this many tokens instead of one."
)
def merge(*, channels: tuple[Path, ...], output: Path, tokens_per_part: int | None) -> None:
    """Join the parts of channels, in order, into one channel.

    \b
    Examples:
      harness data merge data/zh-0 data/zh-1 --output data/zh
      harness data merge data/zh --output data/zh-large --tokens-per-part 4000000000

    CHANNELS are channel folders or prefixes of .bin/.idx pairs. The inputs stay; their hashes are checked on the way.
    """
    from data_prep.channels.merge import merge_channels, without_record
    from harness.data.files.opened import parts_of
    from harness.progress import shown
    from harness.screen import Screen

    num_bytes = sum(part.bin_bytes for path in channels for part in parts_of(path))
    with shown(f"merge {output.name}", num_bytes, Screen(stderr=True)) as progress:
        parts = merge_channels(channels, output, tokens_per_part, progress)
    count = "1 part" if len(parts) == 1 else f"{len(parts):,} parts"
    documents, tokens = sum(part.documents for part in parts), sum(part.tokens for part in parts)
    say(f"{output}: {count}, {documents:,} documents, {tokens:,} tokens")
    if unknown := without_record(channels):
        names = ", ".join(map(str, unknown[:3])) + (" …" if len(unknown) > 3 else "")
        say(
            f"WARNING: {output} has no record of its tokenizer, because there is none of {names}: no command can tell "
            "whether a tokenizer fits it",
            err=True,
        )


@click.command()
@click.argument("channels", nargs=-1, type=click.Path(path_type=Path))
@click.option("--share", "shares", multiple=True, metavar="CHANNEL=WEIGHT", help="Repeat per channel.")
@click.option("--tokens", help="Length of the run in tokens: 100000000, 100e9, 500B, 1.5T.")
@click.option("--max-epochs", type=FiniteRange(0, MOST_EPOCHS, min_open=True), default=4.0, show_default=True)
@click.option("--config", type=click.Path(path_type=Path), help="Corpus file with a section `mix`, in place of these.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the `data` section and the blend of a configuration.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def mix(  # noqa: PLR0913 - one argument per option
    *,
    channels: tuple[Path, ...],
    shares: tuple[str, ...],
    tokens: str | None,
    max_epochs: float,
    config: Path | None,
    as_yaml: bool,
    as_json: bool,
) -> None:
    """Plan a blend: tokens and epochs of each channel, and what is missing for the wanted shares.

    \b
    Examples:
      harness data mix data/ --share zh=4 --share en=4 --share code=2 --tokens 100B --max-epochs 4
      harness data mix --config corpus.yaml --yaml

    CHANNELS are channel folders or a folder of them. A channel that cannot give its share within --max-epochs gives
    what it can; the others take over the rest in proportion to their shares.
    """
    from data_prep.channels.count import unfinished_note
    from data_prep.channels.mix import Supply, plan_mix, to_yaml
    from data_prep.text.named_inputs import read_weight
    from harness.channels.made_with import compare_channels
    from harness.data.files.opened import channel_folders, parts_of

    wanted = dict(map(read_weight, shares))
    if config is not None:
        if channels or shares or tokens:
            raise UsageError("CHANNELS, --share and --tokens stand in the section `mix` of --config: leave them out.")
        section = _mix_section(config)
        channels, wanted = (section.channels,), dict(section.shares)
        tokens, max_epochs = section.tokens, section.max_epochs
    if not (channels and wanted and tokens):
        raise UsageError("give CHANNELS, --share for each and --tokens, or --config with a corpus file.")
    folders = channel_folders(channels)
    if problems := compare_channels({str(folder): folder for folder in folders}, None).problems:
        raise UsageError("\n".join(problems))
    for note in filter(None, map(unfinished_note, folders)):
        say(note, err=True)
    supplies = [
        Supply(name=path.resolve().name, path=path, tokens=sum(part.num_tokens for part in parts_of(path)))
        for path in folders
    ]
    plan = plan_mix(supplies, wanted, number_of_tokens(tokens), max_epochs)
    if as_json:
        say(json.dumps(asdict(plan), indent=1, ensure_ascii=False))
    elif as_yaml:
        say(to_yaml(plan), nl=False)
    else:
        _print_plan(plan)


def _mix_section(file: Path) -> MixConfig:
    from data_prep.corpus.config import load_corpus

    section = load_corpus(file).mix
    if section is None:
        raise UsageError(f"{file} has no section mix. Write one: mix: {{channels: data, shares: {{…}}, tokens: 100B}}.")
    return section


def number_of_tokens(text: str) -> int:
    """Parse a number of tokens as people write it: `250M`, `100B`, `1.5T`, `100e9`, `1_000_000`.

    Raises:
        UsageError: It is not a number above 0.
    """
    factors = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    factor = factors.get(text[-1:].upper(), 1)
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = math.nan
    if not 1 <= value <= MOST_TOKENS:
        raise UsageError(
            f"--tokens {text[:80]!r} is not a number of tokens from 1 to {MOST_TOKENS:,}. Allowed are for example "
            "250M, 100B, 1.5T or 100e9."
        )
    return round(value)


def _print_plan(plan: MixPlan) -> None:
    from rich.table import Table

    from harness.screen import Screen

    table = Table("channel", "available", "wanted share", "share", "tokens", "epochs", "missing")
    for channel in plan.channels:
        table.add_row(
            channel.name,
            f"{channel.available_tokens:,}",
            f"{channel.wanted_share:.1%}",
            f"{channel.share:.1%}",
            f"{channel.planned_tokens:,}",
            f"{channel.epochs:.2f}",
            f"{channel.missing_tokens:,}" if channel.missing_tokens else "",
        )
    Screen(width=None if sys.stdout.isatty() else 120).print(table)
    say(f"The wanted shares last for {plan.longest_tokens_at_wanted_shares:,} tokens at {plan.max_epochs:g} epochs.")
    if plan.planned_tokens < plan.train_tokens * 0.999:
        say(
            f"The channels have {plan.planned_tokens:,} of the {plan.train_tokens:,} tokens: "
            f"{plan.train_tokens - plan.planned_tokens:,} are missing."
        )
