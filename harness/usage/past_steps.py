"""Finds the samples that a step of a run was trained on, from the run's folder, without torch.

The step's record says at which positions of the sample order its samples are, and `order.jsonl` from which positions on
parts were adopted and documents left out. In runs of versions that did not record positions these follow from the
samples consumed before and after the step. The hash of the samples' identities, which the record holds, proves the
result.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.channels.channels import open_channel
from harness.config.load import load_config
from harness.config.schema import Config
from harness.data.files.opened import open_part
from harness.data.order.cursor import Positions
from harness.data.order.recipe import recipe_for
from harness.data.order.samples import ReadSample, SampleOrder, open_turns
from harness.errors import DataError, UsageError
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import make_plan
from harness.run.lines import lines_of, open_lines
from harness.run.order_changes import History, phase_of
from harness.run.order_file import read_journal
from harness.run.paths import RunDir
from harness.run.records import StepRecord, from_json_line
from harness.usage.trained import follow, recorded_data, windows_by_attempt


@dataclass(frozen=True, kw_only=True)
class PastStep:
    """A step that was trained, and its samples."""

    record: StepRecord
    samples: tuple[ReadSample, ...]
    """In the order of the global batch."""


def find_step(run_dir: RunDir, step: int, attempt: int | None = None) -> PastStep:
    """Find the samples of a step. Where it was done again after a rollback, the default is the latest attempt.

    Raises:
        UsageError: There is no such run, or it has not done this step.
        DataError: Its data are gone or damaged, or its samples cannot be found any more.
    """
    run_dir.require_run()
    config = load_config(run_dir.config)
    way = _way_to(run_dir, step, attempt)
    record = way.record(-1)
    plan = make_plan(config, needed_world_sizes(config))
    recipe = recipe_for(config, plan.phases, recorded_data(run_dir))
    channels = [open_channel(name, config.data.channels[name]) for name in recipe.channel_names]
    turns = open_turns(channels, recipe, open_part)
    positions, history = _drawn(run_dir, config, way, [phase.name for phase in plan.phases])
    order = SampleOrder(turns, recipe, history)
    if not _is_proven(order, positions, record):
        raise DataError(
            f"the samples of step {step} of {run_dir.root} cannot be found any more: those at its positions do not "
            f"have the batch hash {record.batch_hash:016x} of its record. Were the channels changed, or "
            "config.yaml?"
        )
    seq_length = recipe.phases[phase_of(history)].seq_length
    return PastStep(record=record, samples=order.read_at(positions, seq_length))


def _drawn(run_dir: RunDir, config: Config, way: Way, phases: Sequence[str]) -> tuple[Positions, History]:
    """Return the positions of the samples of the last step of a way, and the changes of the order up to then.

    Raises:
        DataError: A record of the way is missing.
    """
    windows = windows_by_attempt(run_dir, config.data.skip_windows)
    trained = follow(way.records(), phases, windows, read_journal(run_dir.order))[-1]
    before = way.record(-2).consumed_samples if len(way.places) > 1 else 0
    last = replace(trained, first_consumed=max(before, trained.first_consumed))
    ranges = way.record(-1).positions or last.ranges()
    positions = np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges])
    return positions, trained.history


@dataclass(frozen=True)
class Way:
    """The records of the attempts that led to a step, one for each step. They stay in the file: there are millions."""

    path: Path
    places: npt.NDArray[np.int64]
    """Places of their lines in the file, by rising step, [S]."""

    def record(self, index: int) -> StepRecord:
        """Return one of them."""
        return next(self._at(self.places[index : index + 1 or None]))

    def records(self) -> Iterator[StepRecord]:
        """Yield all of them, by rising step."""
        return self._at(self.places)

    def _at(self, places: npt.NDArray[np.int64]) -> Iterator[StepRecord]:
        with open_lines(self.path) as file:
            for place in places.tolist():
                file.seek(place)
                record = from_json_line(next(lines_of(file), b""))
                if record is None:
                    raise DataError(f"{self.path} was changed while it was read. Try again.")
                yield record


def _way_to(run_dir: RunDir, step: int, attempt: int | None) -> Way:
    """Return the way to a step.

    Raises:
        UsageError: The step is not among the records.
        DataError: The records cannot be read.
    """
    attempts: list[int] = []
    steps, places = array("q"), array("q")
    found: int | None = None
    for place, record in _placed_records(run_dir.metrics):
        if record.step == step and record.attempt not in attempts:
            attempts.append(record.attempt)
        if record.step <= step and (attempt is None or record.attempt <= attempt):
            steps.append(record.step)
            places.append(place)
            found = record.attempt if record.step == step else found
    if found is not None and attempt in (None, found):
        # Of several records of a step the last one counts.
        _, from_end = np.unique(np.frombuffer(steps, dtype=np.int64)[::-1], return_index=True)
        return Way(run_dir.metrics, np.frombuffer(places, dtype=np.int64)[len(places) - 1 - from_end])
    if attempts:
        raise UsageError(
            f"{run_dir.root} did step {step} in attempt {', '.join(map(str, attempts))}, not in attempt {attempt}. "
            f"Give --attempt {attempts[-1]}, or leave it out."
        )
    raise UsageError(
        f"{run_dir.root} has no record of step {step}; its records up to there end with step {max(steps, default=0)}. "
        f"Give a step that {run_dir.metrics} has."
    )


def _placed_records(path: Path) -> Iterator[tuple[int, StepRecord]]:
    """Yield every record with the place of its line in the file. A missing file has none.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with open_lines(path) as file:
            place = 0
            for line in lines_of(file):
                if (record := from_json_line(line)) is not None and record.step:  # 0: evaluated before the first step
                    yield place, record
                place = file.tell()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _is_proven(order: SampleOrder, positions: Positions, record: StepRecord) -> bool:
    try:
        return order.batch_hash(order.locate(positions)) == record.batch_hash
    except DataError:  # parts are missing
        return False
