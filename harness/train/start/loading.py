"""Loads the state to go on from, and makes sure that training continues as it would have without a break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness.checkpoint.loading import mcore as checkpoint_files
from harness.checkpoint.node_folder import SnapshotRecord
from harness.config.schema import Config
from harness.data.fingerprint import fingerprint_filled_in, require_adopted
from harness.data.order.cursor import Cursor
from harness.errors import CheckpointError
from harness.metrics.recorder import Recorder
from harness.parallel import collectives
from harness.plan.plan import Plan
from harness.run.checkpoints.compare import changed_on_the_way, require_same
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import Manifest
from harness.run.event_types import Resumed, Started
from harness.run.heartbeats import Activity
from harness.run.launch_folder import accept
from harness.run.records import hidden_records
from harness.tokenizers.identity import OTHER_TOKENIZERS
from harness.train.components.agreement import raising_together
from harness.train.components.found import Start
from harness.train.components.nearby import Snapshot
from harness.train.components.open_data import RunData
from harness.train.components.stages import Stages
from harness.train.report import introduction
from harness.train.run import Run
from harness.train.saving.snapshots import live, restore_snapshot
from harness.train.state import TrainState
from harness.train.steps.adoption import write_down
from harness.train.steps.restored import require_restored


def require_same_data(config: Config, plan: Plan, data: RunData, start: Start) -> list[str]:
    """Refuse to go on from a checkpoint of other data or other phases, and return what differs and may.

    Raises:
        CheckpointError: It belongs to another model, other data or other phases.
        DataError: Adopted parts are missing.
    """
    changed: list[str] = []
    if start.manifest is not None:
        cursor = Cursor.from_json(start.manifest.cursor)
        expected = plan.phase_of(start.step + 1)
        if cursor.phase > expected.index:
            raise CheckpointError(
                f"the checkpoint of step {start.step} is in phase {cursor.phase + 1} of its run, but by this "
                f"configuration step {start.step + 1} belongs to phase {expected.index + 1}, {expected.name}. Phases "
                "that have begun stay as long as they were; give the configuration with which it was saved, or go on "
                "from an earlier checkpoint."
            )
        recorded = start.manifest.fingerprint
        promised = _promised(recorded, data.fingerprint(cursor))
        before, now = (_without_tokenizers(fingerprint_filled_in(each)) for each in (recorded, promised))
        require_same(before, now, allow_added_parts=True)
        changed = [f"from step {start.step + 1} on {line}" for line in changed_on_the_way(before, now)]
    require_adopted(data.stream.channels, start.journal)
    return changed


def restore(run: Run, start: Start, stages: Stages, given: Config) -> TrainState:
    """Load the snapshot or the checkpoint, if there is one, and return its state. Every rank must call it.

    The event of the start tells how long its stages took. `given` is the configuration as its user wrote it, which
    becomes that of the run.

    Raises:
        CheckpointError: It cannot be loaded, is not as it was saved, or would go on with other samples.
    """
    run.heartbeat.enter(Activity.LOAD, start.step)
    stages.enter("load")
    if start.entry is None or start.manifest is None:
        state = TrainState(attempt=start.attempt, has_made_no_step=True).skipping(run.config.data.skip_windows)
        opened: Started | Resumed = Started(attempt=state.attempt, step=state.step)
    else:
        manifest = start.manifest
        state = _state_of(start, start.entry, manifest)
        with raising_together(run.ranks):
            _require_same_next_batch(run, _as_saved(run, state, start), manifest.next_batch_hash)
        state = state.skipping((*run.config.data.skip_windows, *start.skips))
        if start.snapshot is not None:
            _load_snapshot(run, start.snapshot, manifest)
        elif manifest.optimizer_norms:
            checkpoint_files.load(start.entry.path, run.pipeline.chunks, run.optimizer.megatron)
        else:  # converted from another format: weights only, the optimizer begins with moments of zero
            checkpoint_files.load_weights(start.entry.path, run.pipeline.chunks)
            run.optimizer.megatron.reload_model_params()
        stages.enter("check")
        require_restored(run, state.step, manifest.optimizer_norms, from_files=start.snapshot is None)
        stages.enter("begin")
        opened = Resumed(
            attempt=state.attempt,
            step=state.step,
            path=str(start.entry.path),
            from_snapshot=start.snapshot is not None,
        )
    state = replace(state, cursor=run.data.stream.begun(state.cursor.with_changes(start.journal)))
    with raising_together(run.ranks):
        write_down(run, start.journal, state.cursor.history)
    if run.recorder is not None:
        _accept(run, run.recorder, given)
        run.recorder.event(opened.model_copy(update={"stages": stages.seconds}))
        if start.entry is not None and start.snapshot is None:  # the way to a snapshot is never hidden
            run.desk.do(partial(_repeat_hidden, run, run.recorder, start.entry, state.attempt))
        for text in introduction(run):
            run.recorder.message(text)
    return state


def _state_of(start: Start, entry: Checkpoint, manifest: Manifest) -> TrainState:
    """Return the state to go on from: that of the checkpoint, or of a later snapshot."""
    state = TrainState.from_checkpoint(entry.path, manifest, attempt=start.attempt, is_as_loaded=start.snapshot is None)
    return state if start.snapshot is None else replace(state, saved=manifest.parent)


def _load_snapshot(run: Run, record: SnapshotRecord, manifest: Manifest) -> None:
    """Read this rank's share, and load it into model and optimizer. Every rank must call it.

    Raises:
        CheckpointError: On every rank. The next start uses no snapshots.
    """
    assert run.nearby is not None, "a snapshot was found in its folder"
    problem = None
    try:
        tensors = run.nearby.folder.read(record, tuple(live(run)))
    except OSError as error:
        problem = f"{error.strerror} ({error.filename})"
    else:
        taken = Snapshot(
            step=record.step, attempt=record.attempt, tensors=tensors, optimizer_steps=record.optimizer_steps
        )
        run.snapshots.append(taken)
    if not restore_snapshot(run, manifest):
        problems = [text for text in collectives.gathered(problem) if text is not None]
        raise CheckpointError(
            f"the snapshot of step {record.step} in {run.nearby.folder.path.parent} was not loaded: "
            f"{problems[0] if problems else 'it is of another model'}. No step was taken. Start again: that goes on "
            "from the checkpoint."
        )


def _as_saved(run: Run, state: TrainState, start: Start) -> TrainState:
    """Return the state with the history of the time when it was saved. Older checkpoints did not contain it."""
    before = (each for each in start.journal if each.position == 0)
    return replace(state, cursor=run.data.stream.begun(state.cursor.with_changes(before)))


def _accept(run: Run, recorder: Recorder, given: Config) -> None:
    """Make the configuration that of the run, now that all checks have passed."""
    try:
        accept(run.run_dir, given)
    except OSError as error:
        recorder.message(f"warning: cannot write {run.run_dir.config}: {error.strerror}")


def _repeat_hidden(run: Run, recorder: Recorder, entry: Checkpoint, attempt: int) -> None:
    """Record the steps on the way to the checkpoint once more, where records of a later start hide them."""
    path = run.run_dir.metrics
    hidden = hidden_records(path, attempt=entry.manifest.attempt, step=entry.step)
    try:
        recorder.repeat(replace(record, attempt=attempt) for record in hidden)
    except OSError as error:
        recorder.message(
            f"warning: cannot read {path}: {error.strerror}; steps up to {entry.step} that a start in between recorded "
            "differently stay hidden there; training goes on"
        )


def _without_tokenizers(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what `components.run_tokenizer` has compared: a tokenizer is not known by its record's text."""
    return {name: value for name, value in fingerprint.items() if name not in ("tokenizer", OTHER_TOKENIZERS)}


def _promised(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a fingerprint to compare. A converted checkpoint has no data."""
    return found if "data" in recorded else {key: value for key, value in found.items() if key in recorded}


def _require_same_next_batch(run: Run, state: TrainState, promised: str | None) -> None:
    if promised is None:
        return
    found = f"{run.data.stream.peek_hash(state.cursor) or 0:016x}"
    # Another batch size makes other batches out of the same samples: that is allowed.
    before = run.plan.phases[: run.phase.index]
    of_phase = run.phase.batch_sizes.samples_in(state.step + 1 - run.phase.first_step)
    same_batch_size = sum(phase.train_samples for phase in before) + of_phase == state.cursor.consumed_samples
    if found != promised and same_batch_size:
        raise CheckpointError(
            f"the next batch has the hash {found}, but the checkpoint of step {state.step} promised {promised}: the "
            "order of the data has changed. Use the version of harness that wrote the checkpoint, or start a new run."
        )
