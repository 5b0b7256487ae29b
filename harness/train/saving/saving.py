"""Checkpoints written by all ranks together and published by one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.checkpoint.causes import cause
from harness.checkpoint.complete import incompleteness
from harness.checkpoint.counted import Records
from harness.config.phase_settings import in_phase
from harness.errors import CheckpointError, SaveFailedError
from harness.parallel import collectives
from harness.plan.memory import checkpoint_bytes
from harness.run import resume_failures
from harness.run.checkpoints.manifest import Manifest
from harness.run.checkpoints.retention import RetentionPolicy, before_steps, evidence_steps, to_delete
from harness.run.checkpoints.verify import verify
from harness.run.event_types import Saved, SaveFailed
from harness.run.heartbeats import Activity
from harness.train.components.identity import versions
from harness.train.components.stages import Stages
from harness.train.run import Run
from harness.train.saving import suspects as quarantine
from harness.train.saving.aftermath import conclude_rollback
from harness.train.state import TrainState


def save(run: Run, state: TrainState) -> TrainState:
    """Save the state as a checkpoint and return it with the outcome. Every rank must call it.

    A failed save is only reported: older checkpoints are untouched, and training can go on.
    """
    stages = Stages("begin")
    run.heartbeat.enter(Activity.SAVE, state.step)
    partial, problem = collectives.from_rank_0(begin(run, state))
    path = None
    if partial is not None:
        stages.enter("write")
        records, squares, problem = _write(run, state, partial)
        if problem is None:
            norms = run.optimizer.joint_norms(squares)
            stages.enter("publish")
            path, problem = collectives.from_rank_0(_publish(run, state, partial, records, norms, stages.total_s))
    run.in_flight.stall_s += stages.total_s
    return conclude(run, state, state, path, problem, stages)


def conclude(
    run: Run, state: TrainState, saved: TrainState, path: Path | None, problem: str | None, stages: Stages
) -> TrainState:
    """Return the state after the save of `saved` (itself or an earlier state), report the outcome, and let prune."""
    seconds = stages.total_s
    state = state.after_save(path, round(seconds, 3), problem, of=saved)
    run.in_flight.save_s = seconds
    run.in_flight.num_failed_saves = state.num_failed_saves
    _report(run, state, saved, problem, stages)
    if path is not None and run.ranks.is_writer:
        run.desk.hand(lambda: _secure(run, state))
        run.housekeeping.hand(lambda: _tidy(run, state, path))
    return state


def _secure(run: Run, state: TrainState) -> None:
    """Do what must be done before a command is answered to which this save belongs."""
    resume_failures.forget(run.run_dir)
    conclude_rollback(run, state)


def _tidy(run: Run, state: TrainState, saved: Path) -> None:
    quarantine.release(run, state)
    _prune(run, saved)


def path_or_problem(act: Callable[[], Path]) -> tuple[Path | None, str | None]:
    """Return the path that an act on the disk gives, or the reason why it failed."""
    try:
        return act(), None
    except SaveFailedError as error:
        return None, str(error)


def begin(run: Run, state: TrainState) -> tuple[Path | None, str | None]:
    """Make the folder to write into, on the writer; return it, or the reason why it cannot be made."""
    if not run.ranks.is_writer:
        return None, None
    run.housekeeping.settle()  # what it removes makes room
    needed = checkpoint_bytes(run.config)
    return path_or_problem(lambda: run.desk.do(lambda: run.store.begin(state.step, estimated_bytes=needed)))


def _write(run: Run, state: TrainState, partial: Path) -> tuple[Records, list[float], str | None]:
    """Write this rank's share.

    Returns:
        The files' records on the writer, this rank's squares of the optimizer's state, and the problem of any rank.
    """
    try:
        writing = run.saver.begin(partial, measure=run.optimizer.own_squares, with_sha256=signs(run), beside=False)
        return writing.finish(), writing.measured, None
    except SaveFailedError as error:
        return {}, [], not_written(run, state, partial, error)


def signs(run: Run) -> bool:
    """Return whether checkpoints of the run are signed, the same on every rank."""
    return run.config.checkpoint.signature_key_file is not None


def not_written(run: Run, state: TrainState, partial: Path, cause: object) -> str:
    """Remove the files of a save that failed, and return the problem for people."""
    if run.ranks.is_writer:
        run.desk.do(lambda: run.store.discard(partial))  # what stays is removed by the next save or start
    return (
        f"The checkpoint of step {state.step} was not saved: {cause}. Older checkpoints are untouched. Make "
        f"room in {partial.parent}, or check its file system."
    )


def _publish(
    run: Run, state: TrainState, partial: Path, records: Records, norms: dict[str, float], written_s: float
) -> tuple[Path | None, str | None]:
    if not run.ranks.is_writer:
        return None, None
    about = manifest(run, state, norms, written_s)
    return path_or_problem(lambda: run.desk.do(lambda: publish(run, state, partial, about, records)))


def publish(run: Run, state: TrainState, partial: Path, about: Manifest, records: Records) -> Path:
    """Publish what all ranks have written, if it is complete. The desk does this.

    Raises:
        SaveFailedError: It is not, or the disk refused.
        RunTakenOverError: Another process has taken the run over.
    """
    try:
        problem = incompleteness(partial, records)
    except OSError as error:
        problem = cause(error)
    if problem is not None:
        raise SaveFailedError(not_written(run, state, partial, problem))
    return run.store.publish(partial, about, belongings=run.belongings, records=records)


def manifest(run: Run, state: TrainState, norms: dict[str, float], written_s: float) -> Manifest:
    """Return the manifest of a checkpoint of a state, without its files."""
    finished = state.step >= run.plan.train_steps
    next_hash = run.data.stream.peek_hash(state.cursor)
    return Manifest(
        step=state.step,
        attempt=state.attempt,
        parent=state.saved,
        pinned=state.step in run.plan.borders,
        health="suspect" if run.config.checkpoint.save_as_suspect else "clean",
        config_hash=run.config_hash,
        versions=versions(),
        layout=run.phase.layout,
        consumed_samples=state.cursor.consumed_samples,
        consumed_tokens=state.cursor.consumed_tokens,
        learning_rate=state.learning_rate,
        next_batch_hash=None if finished or next_hash is None else f"{next_hash:016x}",
        saved_at=datetime.now(UTC),
        save_seconds=round(written_s, 3),
        cursor=state.cursor.to_json(),
        optimizer_norms=norms,
        last_losses=state.last_losses,
        rollback=state.rollback,
        adjustment=state.adjustment,
        rotation=_rotation(run, state.step),
        longest_seq_length=state.longest_seq_length,
        base_losses=state.base_losses,
        phase_losses=state.phase_losses,
        fingerprint=run.data.fingerprint(state.cursor),
    )


def _rotation(run: Run, step: int) -> dict[str, Any]:
    """Return the rotary settings of a step's phase, which a converter needs besides the weights."""
    model = in_phase(run.config, run.plan.phase_of(max(1, step)).index).model
    return model.model_dump(mode="json", include={"rotary_base", "rope_scaling"})


def _prune(run: Run, saved: Path) -> None:
    """Remove the checkpoints that the retention policy does not keep, now that there is a newer one."""
    settings = run.config.checkpoint
    if settings.keep_last is None:
        return
    policy = RetentionPolicy(keep_last=settings.keep_last, keep_every_steps=settings.keep_every_steps)
    if verify(saved, key=run.store.key):  # only sizes: the files were hashed a moment ago
        return
    try:
        entries = run.store.list()
    except OSError as error:  # the next save prunes again
        run.announce(f"warning: no checkpoint was removed: {error.strerror} ({error.filename})")
        return
    in_use = {saved, *before_steps(entries, evidence_steps(run.run_dir))}
    for entry in to_delete(entries, policy, in_use):
        try:
            run.store.remove(entry)
        except CheckpointError as error:
            run.announce(f"warning: {error}")


def _report(run: Run, state: TrainState, saved: TrainState, problem: str | None, stages: Stages) -> None:
    if problem is None:
        assert state.checkpoint is not None and state.save_seconds is not None, "a save that succeeded has both"
        event = Saved(
            attempt=saved.attempt,
            step=saved.step,
            path=state.checkpoint,
            seconds=state.save_seconds,
            stages=stages.seconds,
        )
        run.announce(f"saved {state.checkpoint} in {state.save_seconds} s", event)
    else:
        refused = SaveFailed(attempt=saved.attempt, step=saved.step, reason=problem)
        run.announce(f"warning: {problem}", refused)
