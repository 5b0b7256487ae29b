"""`harness status` of several runs: where each stands, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.launch.status import Status, status_of
from harness.run_state.finding import find_runs
from harness.run_state.slurm_job import Ask, ask_slurm
from harness.run_state.state import Word
from harness.text import duration_text, listed, table


def statuses_of(folders: Sequence[Path], ask: Ask = ask_slurm) -> list[Status]:
    """Return where each run stands: those that are named, and those in folders that are named.

    Raises:
        UsageError: One of the folders is no run, and has none in it.
    """
    return [status_of(run_dir, ask=ask) for run_dir in find_runs(folders)]


def runs_text(runs: Sequence[Status]) -> str:
    """Return a table of runs for people, those that need a person first."""
    rows: list[tuple[str, ...]] = [("run", "state", "step", "loss", "left", "goodput", "waited", "lost", "alerts")]
    rows += [_row(run) for run in sorted(runs, key=lambda run: (not run.needs_person, run.run))]
    needing = [run.run for run in runs if run.needs_person]
    note = [f"a person must look at: {listed(needing)}"] if needing else []
    return "\n".join([table(rows), *note])


def _row(status: Status) -> tuple[str, ...]:
    spent = status.time
    of_steps = f"/{status.train_steps:,}" if status.train_steps else ""
    late = ", late" if status.late and status.state == Word.TRAINING else ""
    return (
        status.run,
        f"{status.state}{late}",
        "" if status.step is None else f"{status.step:,}{of_steps}",
        "" if status.loss is None else f"{status.loss:.4f}",
        "" if status.time_left_s is None else duration_text(status.time_left_s),
        "" if spent.goodput is None else f"{spent.goodput:.0%}",
        duration_text(spent.waited_s),
        duration_text(spent.repeated_s + spent.started_s),
        str(len(status.alerts["open"]) or ""),
    )
