"""Checkpoints that are saved as suspect, and become clean if no alarm follows.

Harm shows late: a checkpoint from just before a divergence looks like any other. So one counts as clean only when
`checkpoint.clean_after_steps` steps have followed it and no alarm is within that distance (unless `save_as_suspect` is
off). A run goes on even from a suspect one, because nothing newer exists. It rolls back to clean ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial

from harness.errors import SaveFailedError
from harness.run.checkpoints.entries import Checkpoint, Entry
from harness.run.checkpoints.lineage import line_of
from harness.run.checkpoints.manifest import Parent
from harness.run.event_types import Released
from harness.train.components.alarms import Alarm
from harness.train.run import Run
from harness.train.state import TrainState


def proven(
    entries: Iterable[Entry], newest: Parent, now: Alarm, clean_after_steps: int, alarms: Collection[Alarm]
) -> list[Checkpoint]:
    """Return the suspect checkpoints on the line to `newest` that can become clean at `now`, newest first.

    Those that are linked from another run become clean there. An alarm counts if its attempt is that of the checkpoint,
    of the newest one or of `now`. Others were left behind.
    """

    def is_near(entry: Checkpoint, alarm: Alarm) -> bool:
        concerns = alarm.attempt in (entry.manifest.attempt, newest.attempt, now.attempt)
        return concerns and abs(alarm.step - entry.step) <= clean_after_steps

    return [
        entry
        for entry in line_of(entries, newest)
        if entry.manifest.health == "suspect"
        and entry.other_run is None
        and entry.step + clean_after_steps <= now.step
        and not any(is_near(entry, alarm) for alarm in alarms)
    ]


def release_due(run: Run, state: TrainState) -> None:
    """Let the checkpoint be released that becomes clean with this step, on the writer. Costs a look at one name."""
    if not run.config.checkpoint.save_as_suspect or run.recorder is None:
        return
    step = state.step - run.config.clean_after_steps_or_default

    def look() -> None:
        if run.run_dir.checkpoint(step).exists():
            run.housekeeping.hand(partial(release, run, state))

    if step > 0:
        run.desk.hand(look)


def release(run: Run, state: TrainState) -> None:
    """Mark checkpoints that have become clean after a save, on the writer, and report them."""
    if not run.config.checkpoint.save_as_suspect or run.recorder is None or state.saved is None:
        return
    now = Alarm(state.attempt, state.step)
    try:
        entries = run.store.list()
    except OSError as error:  # the next save looks again
        run.recorder.message(f"warning: no checkpoint was released: {error.strerror} ({error.filename})")
        return
    for entry in proven(entries, state.saved, now, run.config.clean_after_steps_or_default, run.alarms.look()):
        try:
            run.store.amend(entry, health="clean")
        except SaveFailedError as error:
            run.recorder.message(f"warning: {error}")
        else:
            run.recorder.event(Released(attempt=state.attempt, step=state.step, checkpoint=entry.path.name))
