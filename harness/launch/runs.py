"""`harness status` of several runs: where each stands, and where its time went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.launch.status import Status, status_of
from harness.run.paths import RunDir
from harness.run_state.slurm_job import Ask, ask_slurm
from harness.run_state.state import Word, duration_text
from harness.text import listed, table

_MOST_RUNS = 1000


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of one run, or is to be treated so because it holds none."""
    return (folder / "launches").is_dir() or not any(_runs_in(folder))


def statuses_of(folders: Sequence[Path], ask: Ask = ask_slurm) -> list[Status]:
    """Return where each run stands: those that are named, and those in folders that are named.

    Raises:
        UsageError: One of the folders is no run, and has none in it.
    """
    found = []
    for folder in folders:
        runs = [folder] if (folder / "launches").is_dir() else list(_runs_in(folder))
        if not runs:
            raise UsageError(f"{folder} is no run directory, and there is none in it; give runs, or a folder of runs")
        found += runs
    if len(found) > _MOST_RUNS:
        raise UsageError(f"these are {len(found):,} runs; at most {_MOST_RUNS:,} are shown at once, name fewer")
    return [status_of(RunDir(folder), ask=ask) for folder in found]


def runs_text(runs: Sequence[Status]) -> str:
    """Return a table of runs for people, those that need a person first."""
    rows: list[tuple[str, ...]] = [("run", "state", "step", "loss", "left", "goodput", "waited", "repeated", "alerts")]
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


def _runs_in(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder, by name, also those one folder further down."""
    for pattern in ("*/launches", "*/*/launches"):
        yield from sorted(path.parent for path in folder.glob(pattern) if path.is_dir())
