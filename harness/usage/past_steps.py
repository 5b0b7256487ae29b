"""Finds the samples that a step of a run was trained on, from the run's folder, without torch.

The step's record says at which positions of the sample order its samples are, and `order.jsonl` from which positions on
parts were adopted and documents left out. In runs of versions that did not record positions these follow from the
samples consumed before and after the step. The hash of the samples' identities, which the record holds, proves the
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from harness.run.order_changes import History, phase_of
from harness.run.order_file import read_journal
from harness.run.paths import RunDir
from harness.run.records import StepRecord, whole_records
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
    records = _records_up_to(run_dir, step, attempt)
    plan = make_plan(config, needed_world_sizes(config))
    recipe = recipe_for(config, plan.phases, recorded_data(run_dir))
    channels = [open_channel(name, config.data.channels[name]) for name in recipe.channel_names]
    turns = open_turns(channels, recipe, open_part)
    positions, history = _drawn(run_dir, config, list(records.values()), [phase.name for phase in plan.phases])
    order = SampleOrder(turns, recipe, history)
    if not _is_proven(order, positions, records[step]):
        raise DataError(
            f"the samples of step {step} of {run_dir.root} cannot be found any more: those at its positions do not "
            f"have the batch hash {records[step].batch_hash:016x} of its record. Were the channels changed, or "
            "config.yaml?"
        )
    seq_length = recipe.phases[phase_of(history)].seq_length
    return PastStep(record=records[step], samples=order.read_at(positions, seq_length))


def _drawn(
    run_dir: RunDir, config: Config, line: Sequence[StepRecord], phases: Sequence[str]
) -> tuple[Positions, History]:
    """Return the positions of the samples of the last step of a line, and the changes of the order up to then.

    Raises:
        DataError: A record of the line is missing.
    """
    windows = windows_by_attempt(run_dir, config.data.skip_windows)
    trained = follow(line, phases, windows, read_journal(run_dir.order))[-1]
    before = line[-2].consumed_samples if len(line) > 1 else 0
    last = replace(trained, first_consumed=max(before, trained.first_consumed))
    ranges = line[-1].positions or last.ranges()
    positions = np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in ranges])
    return positions, trained.history


def _records_up_to(run_dir: RunDir, step: int, attempt: int | None) -> dict[int, StepRecord]:
    """Return the records of the attempts that led to the step, by step.

    Raises:
        UsageError: The step is not among them.
    """
    attempts: list[int] = []
    found: dict[int, StepRecord] = {}
    for record in whole_records(run_dir.metrics):
        if record.step == step:
            attempts.append(record.attempt)
        if record.step <= step and (attempt is None or record.attempt <= attempt):
            found[record.step] = record
    if step in found and attempt in (None, found[step].attempt):
        return found
    if attempts:
        done = ", ".join(map(str, dict.fromkeys(attempts)))
        raise UsageError(
            f"{run_dir.root} did step {step} in attempt {done}, not in attempt {attempt}. Give --attempt "
            f"{attempts[-1]}, or leave it out."
        )
    raise UsageError(
        f"{run_dir.root} has no record of step {step}; its records up to there end with step {max(found, default=0)}. "
        f"Give a step that {run_dir.metrics} has."
    )


def _is_proven(order: SampleOrder, positions: Positions, record: StepRecord) -> bool:
    try:
        return order.batch_hash(order.locate(positions)) == record.batch_hash
    except DataError:  # parts are missing
        return False
