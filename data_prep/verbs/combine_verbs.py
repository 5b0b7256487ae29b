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
from harness.limits import LEAST_TEMPERATURE, MOST_EPOCHS, MOST_TEMPERATURE, MOST_TOKENS
from harness.say import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data_prep.channels.mix import MixPlan, Supply
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
@click.option(
    "--sampling",
    type=click.Choice(["temperature", "unimax"]),
    help="Weights by the tokens of the channels, in place of --share.",
)
@click.option(
    "--temperature",
    type=FiniteRange(LEAST_TEMPERATURE, MOST_TEMPERATURE),
    help="With --sampling temperature: weights are n^(1/T). 1 reads every text equally often; 3.33 is in use.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Corpus file with a section `mix`, in place of these.")
@click.option(
    "--run", "run_file", type=click.Path(path_type=Path), help="Configuration of a run, for one of its phases."
)
@click.option("--phase", help="With --run: name of the phase, if there are several.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the `data` section and the blend of a configuration.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--output", type=click.Path(path_type=Path), help="Write what --yaml prints into a new file.")
def mix(  # noqa: PLR0913 - one argument per option
    *,
    channels: tuple[Path, ...],
    shares: tuple[str, ...],
    tokens: str | None,
    max_epochs: float,
    sampling: str | None,
    temperature: float | None,
    config: Path | None,
    run_file: Path | None,
    phase: str | None,
    as_yaml: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Plan a blend: tokens and epochs of each channel, and what is missing for the wanted shares.

    \b
    Examples:
      harness data mix data/ --share zh=4 --share en=4 --share code=2 --tokens 100B --max-epochs 4
      harness data mix data/ --sampling unimax --tokens 100B --max-epochs 4
      harness data mix --run run.yaml --phase main --sampling temperature --temperature 3.33
      harness data mix --config corpus.yaml --yaml

    CHANNELS are channel folders or a folder of them. A channel that cannot give its share within --max-epochs gives
    what it can; the others take over the rest in proportion to their shares.
    """
    from data_prep.channels.mix import repetition_warnings, to_yaml

    _require_no_other_weights(sampling, temperature, shares, config)
    _require_free(output)
    if run_file is not None:
        if channels or tokens or config:
            raise UsageError("CHANNELS, --tokens and --config stand in the configuration of --run: leave them out.")
        supplies, num_tokens, wanted = _of_run(run_file, phase, shares)
    elif phase is not None:
        raise UsageError("--phase names a phase of --run: give that too, or leave it out.")
    else:
        wanted = _weights(shares)
        if config is not None:
            section = _mix_section(config, given=bool(channels or shares or tokens))
            channels, tokens, max_epochs = (section.channels,), section.tokens, section.max_epochs
            wanted, sampling, temperature = dict(section.shares), section.sampling, section.temperature
        supplies, num_tokens = _of_channels(channels, tokens, has_weights=bool(wanted or sampling))
    plan = _planned(supplies, num_tokens, max_epochs, wanted=wanted, sampling=sampling, temperature=temperature)
    in_tokens = sampling is not None or run_file is not None
    for warning in repetition_warnings(plan):
        say(f"WARNING: {warning}", err=True)
    if output is not None:
        _write_new(output, to_yaml(plan, in_tokens=in_tokens))
    if as_json:
        say(json.dumps(asdict(plan), indent=1, ensure_ascii=False))
    elif as_yaml:
        say(to_yaml(plan, in_tokens=in_tokens), nl=False)
    else:
        _print_plan(plan)


def _require_no_other_weights(
    sampling: str | None, temperature: float | None, shares: tuple[str, ...], config: Path | None
) -> None:
    if sampling is not None and (shares or config):
        other = "--share" if shares else "--config"
        raise UsageError(f"--sampling {sampling} computes the weights that {other} gives: leave one of the two out.")
    if sampling == "temperature" and temperature is None:
        raise UsageError("--sampling temperature needs --temperature: 1 for shares as the tokens are, 3.33 is in use.")
    if sampling != "temperature" and temperature is not None:
        raise UsageError("--temperature has no effect without --sampling temperature: give that too, or leave it out.")


def _require_free(output: Path | None) -> None:
    if output is not None and (output.exists() or output.is_symlink()):
        raise UsageError(f"--output {output} is there already. Nothing is replaced: give another name, or remove it.")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror or error}.") from None


def _weights(shares: tuple[str, ...]) -> dict[str, float]:
    from data_prep.text.named_inputs import read_weight

    return dict(map(read_weight, shares))


def _of_run(file: Path, phase: str | None, shares: tuple[str, ...]) -> tuple[list[Supply], int, dict[str, float]]:
    """Return channels, tokens and weights of a phase: the given ones, or those that the phase has now."""
    from data_prep.channels.count import unfinished_note
    from data_prep.channels.phase_supplies import phase_supplies

    supplies, num_tokens, blend = phase_supplies(file, phase)
    for note in filter(None, (unfinished_note(supply.path) for supply in supplies)):
        say(note, err=True)
    return supplies, num_tokens, _weights(shares) or blend


def _of_channels(channels: tuple[Path, ...], tokens: str | None, *, has_weights: bool) -> tuple[list[Supply], int]:
    """Return the channels in folders, and the length of the run."""
    from data_prep.channels.count import unfinished_note
    from data_prep.channels.mix import Supply
    from harness.channels.made_with import compare_channels
    from harness.data.files.opened import channel_folders, parts_of

    if not (channels and has_weights and tokens):
        raise UsageError(
            "give CHANNELS, --share for each and --tokens, or --config with a corpus file; --sampling is in place "
            "of --share, --run in place of CHANNELS and --tokens."
        )
    folders = channel_folders(channels)
    if problems := compare_channels({str(folder): folder for folder in folders}, None).problems:
        raise UsageError("\n".join(problems))
    for note in filter(None, map(unfinished_note, folders)):
        say(note, err=True)
    supplies = [
        Supply(name=path.resolve().name, path=path, tokens=sum(part.num_tokens for part in parts_of(path)))
        for path in folders
    ]
    return supplies, number_of_tokens(tokens)


def _planned(
    supplies: list[Supply],
    num_tokens: int,
    max_epochs: float,
    *,
    wanted: Mapping[str, float],
    sampling: str | None,
    temperature: float | None,
) -> MixPlan:
    from data_prep.channels.mix import plan_by_temperature, plan_by_unimax, plan_mix

    if sampling == "unimax":
        return plan_by_unimax(supplies, num_tokens, max_epochs)
    if temperature is not None:
        return plan_by_temperature(supplies, temperature, num_tokens, max_epochs)
    return plan_mix(supplies, wanted, num_tokens, max_epochs)


def _mix_section(file: Path, *, given: bool) -> MixConfig:
    """Return the blend that a corpus file plans; `given` if the command line has parts of it, too."""
    from data_prep.corpus.config import load_corpus

    if given:
        raise UsageError("CHANNELS, --share and --tokens stand in the section `mix` of --config: leave them out.")
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
