"""The command `harness data quarantine`: documents that a run is never to train on again."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import DataError, UsageError
from harness.limits import MOST_COUNT
from harness.say import say
from harness.text import listed

if TYPE_CHECKING:
    from harness.run.commands.requests import Quarantine
    from harness.run.paths import RunDir

_MOST_DIGITS = 16
"""Digits of a document's number."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--document", "documents", multiple=True, metavar="CHANNEL/PART:N", help="A document; repeatable.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Evidence file: the documents of its worst samples.",
)
@click.option("--top", type=click.IntRange(1, MOST_COUNT), default=10, show_default=True, help="So many samples of it.")
@click.option("--undo", is_flag=True, help="Let the documents into samples again that are not drawn yet.")
@click.option("--reason", default="", help="Why; it is kept with the command and in the run's events.")
@click.option("--wait", is_flag=True, help="Wait until the run has carried it out.")
@click.option("--json", "as_json", is_flag=True, help="Without documents: the list as JSON.")
def quarantine(  # noqa: PLR0913 - one argument per option
    run: Path,
    documents: tuple[str, ...],
    evidence: Path | None,
    *,
    top: int,
    undo: bool,
    reason: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Keep documents out of every later sample of the run in RUN; without documents, list those kept out.

    It takes effect at the end of the step, or, if no trainer runs, before the first step of the next start.

    \b
    Examples:
      harness data quarantine runs/tiny --document zh/part-00007:8812 --reason garbled --wait
      harness data quarantine runs/tiny --evidence runs/tiny/evidence/step_0040120.jsonl --top 3
      harness data quarantine runs/tiny --document zh/part-00007:8812 --undo
      harness data quarantine runs/tiny
    """
    from harness.run.commands.giving import give, wait_for
    from harness.run.commands.kinds import CommandKind
    from harness.run.commands.requests import Quarantine, UnreadableCommandError, make_request
    from harness.run.paths import RunDir

    run_dir = RunDir(run)
    named = [_document(text) for text in documents]
    if evidence is not None:
        named += _worst(evidence, top)
    if not named:
        _list(run_dir, as_json=as_json)
        return
    by_part: dict[str, list[int]] = {}
    for place, number in named:
        by_part.setdefault(place, []).append(number)
    try:
        request = make_request(CommandKind.QUARANTINE, {"documents": by_part, "lift": undo})
    except UnreadableCommandError as error:
        raise UsageError(str(error)) from None
    assert isinstance(request, Quarantine), "it is of the kind that was asked for"
    run_dir.require_run()
    _require_there(run_dir, request)
    file = give(run_dir, request, reason)
    count = sum(map(len, request.documents.values()))
    if wait:
        wait_for(run_dir, file, timeout_s=600.0)
        say(f"{count} documents: done; see `harness data quarantine {run}` and the run's events")
    else:
        say(f"command given for {count} documents: {file}")


def _require_there(run_dir: RunDir, request: Quarantine) -> None:
    """Return if the run's channels have these documents, as far as that can be seen from here.

    Raises:
        UsageError: They have not.
    """
    from harness.channels.channels import open_channel
    from harness.config.load import load_config

    channels = load_config(run_dir.config).data.channels
    for place, numbers in request.documents.items():
        channel, _, part = place.partition("/")
        if channel not in channels:
            raise UsageError(f"{place}: the run has no channel {channel}; it has {listed(list(channels))}")
        try:
            parts = {each.name: each for each in open_channel(channel, channels[channel]).parts}
        except DataError:  # on another disk, say: the run will know
            continue
        if part not in parts:
            raise UsageError(f"{place}: channel {channel} has no part {part}; it has {listed(list(parts))}")
        if numbers[-1] >= (count := parts[part].num_documents):
            raise UsageError(f"{place}: there is no document {numbers[-1]}; it has {count:,}, counted from 0")


def _document(text: str) -> tuple[str, int]:
    place, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal() or len(number) > _MOST_DIGITS or place.count("/") != 1:
        raise UsageError(f"--document {text}: no document; give channel, part and number, such as zh/part-00007:8812")
    return place, int(number)


def _worst(evidence: Path, top: int) -> list[tuple[str, int]]:
    """Return the documents of the samples with the highest losses in an evidence file.

    Raises:
        UsageError: It is no evidence file.
    """
    from harness.run.evidence import read_evidence

    try:
        samples = read_evidence(evidence)[:top]
    except DataError as error:
        raise UsageError(f"--evidence {error}") from error
    found = [(f"{each.channel}/{each.part}", number) for each in samples for number in each.documents]
    if not found:
        raise UsageError(f"--evidence {evidence}: it names no documents.")
    return list(dict.fromkeys(found))


def _list(run_dir: RunDir, *, as_json: bool) -> None:
    from harness.run.order_changes import quarantined_in
    from harness.run.order_file import read_journal

    run_dir.require_run()
    held = quarantined_in(read_journal(run_dir.order))
    if as_json:
        say(json.dumps({f"{channel}/{part}": list(found) for (channel, part), found in held.items()}))
        return
    if not held:
        say("no documents are in quarantine")
    for (channel, part), documents in held.items():
        for document, tokens in documents.items():
            say(f"{channel}/{part}:{document}  {tokens:,} tokens")
