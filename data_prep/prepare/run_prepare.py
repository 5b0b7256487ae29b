"""Runs `harness data prepare`: every source from its raw files to its channel; what is up to date stays as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data_prep.corpus.config import ExecutorKind, load_corpus
from data_prep.corpus.run_corpus import chosen_sources, print_report, raw_files
from data_prep.corpus.slurm_jobs import SECONDS_BETWEEN_LOOKS
from data_prep.prepare.channel_work import describe
from data_prep.prepare.source_run import Done, SourceRun
from data_prep.prepare.steps import Corpus, Line, Step, look_ahead, steps_of
from harness.channels.source import read_source
from harness.errors import HarnessError, UsageError
from harness.say import say
from harness.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Wishes of whoever calls the command, besides the file."""

    sources: Sequence[str] = ()
    """All if there are none."""
    until: Step = "tokenize"
    executor: ExecutorKind | None = None
    wait: bool = False
    as_json: bool = False
    dry_run: bool = False
    accepts_loss: bool = False
    replaces_channels: bool = False


def run_prepare(file: Path, wanted: Wanted) -> bool:
    """Prepare the sources of a corpus file, and return whether all of them are.

    Raises:
        HarnessError: A channel would have to be replaced, something else is in a folder, or a step fails. Other sources
            go on before that is told.
    """
    config = load_corpus(file)
    corpus = Corpus(config=config, accepts_loss=wanted.accepts_loss, replaces_channels=wanted.replaces_channels)
    executor = config.executor.model_copy(update={"kind": wanted.executor or config.executor.kind})
    names = chosen_sources(config, wanted.sources)
    raw = {name: raw_files(config.sources[name]) for name in names}
    lines = [line for name in names for line in look_ahead(corpus, name, wanted.until, raw[name])]
    if wanted.dry_run or not wanted.as_json:
        _print_lines(lines, wanted.as_json)
    if refusals := [line.refusal for line in lines if line.refusal]:
        raise UsageError("\n".join(refusals))
    if config.tokenize is None and wanted.until == "tokenize":
        say(f"{file} has no section tokenize: the last step is text (tokenize: {{tokenizer: PATH}})", err=True)
    if wanted.dry_run:
        return False
    runs = [SourceRun(corpus, executor, name, steps_of(corpus, name, wanted.until), raw[name]) for name in names]
    try:
        return _run(runs, wanted)
    finally:
        if wanted.as_json:
            say(json.dumps([_as_json(done) for run in runs for done in _told(run)], ensure_ascii=False, indent=1))


def _run(runs: Sequence[SourceRun], wanted: Wanted) -> bool:
    """Advance the sources in turn; on Slurm until their jobs are submitted, or have all ended."""
    problems: list[HarnessError] = []
    left = list(runs)
    while left:
        for run in list(left):
            num_done = len(run.done)
            try:
                is_done = run.advance()
            except HarnessError as error:
                problems.append(error)
                is_done = True
            if not wanted.as_json:
                for done in run.done[num_done:]:
                    _print_done(done)
            if is_done:
                left.remove(run)
        if not wanted.wait:
            break
        if left:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if problems:
        first = problems[0]
        texts = dict.fromkeys(map(str, problems))
        raise first if len(texts) == 1 else type(first)("\n".join(texts))
    return not left


def _told(run: SourceRun) -> list[Done]:
    return [*run.done, *([run.waits_for] if run.waits_for else [])]


def _print_lines(lines: Sequence[Line], as_json: bool) -> None:
    if as_json:
        say(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1))
        return
    table = Table("source", "step", "state", "why")
    for line in lines:
        table.add_row(line.source, line.step, line.kind, line.why)
    Screen(width=None if Screen().is_terminal else 160).print(table)


def _print_done(done: Done) -> None:
    if done.outcome != "done":
        return
    if done.work is not None:
        say(describe(done.work.folder))
    else:
        print_report(done.job.output, done.reports)


def _as_json(done: Done) -> dict[str, Any]:
    entry: dict[str, Any] = {"source": done.source, "step": done.step, "outcome": done.outcome}
    if done.work is None:
        return entry | {"folder": str(done.job.output), "reports": [asdict(report) for report in done.reports]}
    recorded = read_source(done.work.folder)
    totals = asdict(recorded.finished) if recorded and recorded.finished else None
    return entry | {"folder": str(done.work.folder), "totals": totals}
