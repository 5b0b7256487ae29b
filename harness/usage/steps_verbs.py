"""The `harness data` commands that look into the steps of a run: where, and show with --step."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError
from harness.limits import MOST_LAUNCHES, MOST_STEPS
from harness.say import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.channels.provenance import Provenance
    from harness.run.paths import RunDir
    from harness.tokenizers.tokenizer import Tokenizer
    from harness.usage.past_steps import PastStep

_CHARACTERS_PER_TOKEN = 6
_SHOWN_TOKENS = 200


def show_step(  # noqa: PLR0913 - one argument per option
    run: Path,
    step: int,
    attempt: int | None,
    *,
    tokenizer: Path | None,
    top: int,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Print the most suspicious samples of a step, as text.

    Raises:
        UsageError: There is no such run or step.
        DataError: The data are gone, or the samples cannot be found any more.
    """
    from harness.run.paths import RunDir
    from harness.usage.past_steps import find_step
    from harness.usage.step_report import as_json as plain
    from harness.usage.step_report import in_words, step_report

    run_dir = RunDir(run)
    found = find_step(run_dir, step, attempt)
    reports = step_report(run_dir, found, _tokenizer_of(run_dir, tokenizer), _channel_paths(run_dir))
    if as_json:
        say(json.dumps(plain(reports[:top]), ensure_ascii=False, indent=1))
        return
    num_suspicious = sum(report.suspicion >= 1.0 for report in reports)
    say(f"{_headline(run, found)}; {num_suspicious} look suspicious", bold=True)
    for report in reports[:top]:
        say(in_words(report, (max_tokens or _SHOWN_TOKENS) * _CHARACTERS_PER_TOKEN))
    if all(report.loss is None for report in reports):
        say(f"For the loss of each: harness signal {run} evidence --steps {max(1, step - 16)}:{step}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(1, MOST_STEPS), required=True, help="The step.")
@click.option(
    "--attempt", type=click.IntRange(0, MOST_LAUNCHES), help="Which one, if it was done again. Default: the last."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def where(*, run: Path, step: int, attempt: int | None, as_json: bool) -> None:
    """List the parts and documents that a step of RUN was trained on, and where each came from, without their text.

    Of each document that is the source file, the line (or row) in it, and the record's id or URL, as far as the
    channel records it. Nothing but the run's directory and the indices of its channels is read, and no GPU is needed.
    That these are the right documents is proven by the batch hash in metrics.jsonl.

    \b
    Example:
      harness data where runs/tiny --step 120
    """
    from harness.channels.provenance import NOT_RECORDED
    from harness.channels.provenance_of_parts import Provenances
    from harness.run.paths import RunDir
    from harness.usage.past_steps import find_step

    run_dir = RunDir(run)
    found = find_step(run_dir, step, attempt)
    documents: dict[tuple[str, str], set[int]] = {}
    for sample in found.samples:
        place = documents.setdefault((sample.address.channel, sample.address.part), set())
        place.update(span.document for span in sample.documents)
    with Provenances(_channel_paths(run_dir)) as known:
        places = [
            (channel, part, sorted(numbers), known.of(channel, part, sorted(numbers)))
            for (channel, part), numbers in sorted(documents.items())
        ]
    if as_json:
        entries = [
            {"channel": channel, "part": part, "documents": numbers, **_origins_json(origins)}
            for channel, part, numbers, origins in places
        ]
        say(json.dumps({"step": step, "attempt": found.record.attempt, "parts": entries}, indent=1))
        return
    say(_headline(run, found), bold=True)
    for channel, part, numbers, origins in places:
        is_recorded = any(each.file for each in origins)
        note = "" if is_recorded else f" ({NOT_RECORDED})"
        say(f"{channel}/{part}: documents {', '.join(map(str, numbers))}{note}")
        for number, origin in zip(numbers, origins, strict=True) if is_recorded else ():
            say(f"  {number}  {origin.in_words()}")


def _headline(run: Path, found: PastStep) -> str:
    counts = Counter(sample.address.channel for sample in found.samples)
    of_channels = ", ".join(f"{channel} {count}" for channel, count in sorted(counts.items()))
    record = found.record
    return f"step {record.step} of {run} (attempt {record.attempt}): {len(found.samples)} samples ({of_channels})"


def _origins_json(origins: Sequence[Provenance]) -> dict[str, object]:
    """Return the field that says where documents came from, null for one that is not known; none if none is."""
    if not any(origin.file for origin in origins):
        return {}
    return {"provenance": [origin.to_json() for origin in origins]}


def _channel_paths(run_dir: RunDir) -> dict[str, Path]:
    from harness.config.load import load_config

    return {name: channel.path for name, channel in load_config(run_dir.config).data.channels.items()}


def _tokenizer_of(run_dir: RunDir, given: Path | None) -> Tokenizer | None:
    """Return the tokenizer that was given, or else the one of the run's configuration, or None.

    Raises:
        UsageError: A channel of the run was made with another one.
    """
    from harness.channels.made_with import compare_channels, paths_in_use
    from harness.config.load import load_config
    from harness.tokenizers.tokenizer import open_tokenizer

    config = load_config(run_dir.config)
    path = given or config.data.tokenizer
    if path is None:
        return None
    tokenizer = open_tokenizer(path, needs_end=False)
    if problems := compare_channels(paths_in_use(config), tokenizer, str(path)).problems:
        raise UsageError("\n".join(problems))
    return tokenizer
