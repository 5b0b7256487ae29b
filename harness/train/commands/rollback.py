"""Returns a running job to an earlier checkpoint, without restarting its processes, and skips samples for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from harness.checkpoint import mcore as checkpoint_files
from harness.checkpoint.metadata_pickle import index_problem
from harness.data.order.cursor import Cursor, Positions
from harness.errors import CheckpointError
from harness.parallel import collectives
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.lineage import Target, line_of, rollback_target
from harness.run.checkpoints.manifest import Adjustment, RollbackRecord
from harness.run.checkpoints.verify import verify_before_load
from harness.run.commands.command import Order
from harness.run.commands.rollback import RollbackRequest
from harness.run.order_file import rollbacks_in_journal
from harness.train.run import Run
from harness.train.saving.aftermath import conclude_rollback
from harness.train.saving.saving import save
from harness.train.saving.snapshots import restore_snapshot
from harness.train.start.restored import require_restored
from harness.train.state import TrainState
from harness.train.steps.phases import take


@dataclass(frozen=True, kw_only=True)
class _Way:
    """What rank 0 found out about a rollback; all ranks act on it."""

    target: Checkpoint | None = None
    problem: str | None = None
    """Why it cannot be done."""
    was_done: bool = False
    """It was carried out before a crash kept it from being acknowledged."""


def roll_back(run: Run, state: TrainState, order: Order) -> TrainState:
    """Carries out a rollback order. Every rank must call it.

    Model, optimizer, schedule and cursor return; the skip window is entered in the cursor; the new state is saved at
    once, in a new attempt, before the checkpoints after the target become `abandoned`. So a crash at any moment leaves
    either the state before the order, which is then found again and carried out, or the state after it. If the disk
    does not take the new state, training goes on in it, and the order waits until a later one is saved.

    An order that cannot be carried out is reported and changes nothing.
    """
    request = order.rollback
    assert request is not None, "a rollback order says what it asks for"
    way = collectives.from_rank_0(_find_way(run, state, order, request) if run.ranks.is_writer else _Way())
    if way.was_done:
        _say(run, state, "rollback-done", f"the rollback by {order.source} was carried out before", order=order.source)
        conclude_rollback(run, state)
        return state
    if way.target is None:
        return _refused(run, state, order, way.problem)
    rolled_back = _returned(run, state, way.target, order, request)
    from_memory = restore_snapshot(run, way.target.manifest)
    if not from_memory and (problem := _load(run, way.target)) is not None:
        return _refused(run, state, order, problem)
    require_restored(run, rolled_back.step, way.target.manifest.optimizer_norms)
    rolled_back = save(run, rolled_back)
    _say(
        run,
        rolled_back,
        "rollback",
        f"rolled back from step {state.step} to {way.target.path}; skipping {list(rolled_back.cursor.skip_windows)}",
        order=order.source,
        reason=order.reason,
        from_step=state.step,
        from_attempt=state.attempt,
        skip_windows=rolled_back.cursor.skip_windows,
        from_memory=from_memory,
    )
    return rolled_back


def _refused(run: Run, state: TrainState, order: Order, problem: str | None) -> TrainState:
    text = f"warning: the rollback by {order.source} was not carried out: {problem}"
    _say(run, state, "rollback-refused", text, order=order.source, reason=problem)
    return state


def _find_way(run: Run, state: TrainState, order: Order, request: RollbackRequest) -> _Way:
    try:
        entries = run.store.list()
    except OSError as error:
        return _Way(problem=f"{error.strerror} ({error.filename})")
    try:
        written_down = {each.order for each in rollbacks_in_journal(run.run_dir.order)}
        records = [state.rollback, *(entry.manifest.rollback for entry in line_of(entries, state.saved))]
        if order.fingerprint in written_down | {record.order for record in records if record is not None}:
            return _Way(was_done=True)
        target = rollback_target(entries, state.saved, Target(to_step=request.to_step, before_step=request.before_step))
    except CheckpointError as error:
        return _Way(problem=str(error))
    return _Way(target=target)


def _load(run: Run, target: Checkpoint) -> str | None:
    """Loads the target from the shared store, or says why not. Every rank must call it, and hears the same."""
    problem = collectives.from_rank_0(_problem_of(run, target) if run.ranks.is_writer else None)
    if problem is None:
        checkpoint_files.load(target.path, run.pipeline.chunks, run.optimizer.megatron)
    return problem


def _problem_of(run: Run, target: Checkpoint) -> str | None:
    try:
        verify_before_load(target.path, deep=True, key=run.store.key)
    except CheckpointError as error:
        return str(error)
    return index_problem(target.path)


def _returned(run: Run, state: TrainState, target: Checkpoint, order: Order, request: RollbackRequest) -> TrainState:
    """The state of the target in a new attempt, with everything that the order adds."""
    restored = TrainState.from_checkpoint(target.path, target.manifest, attempt=state.attempt + 1)
    restored = restored.skipping(state.cursor.skip_windows).with_changes(state.cursor.history)
    skipped = request.skip_samples
    if request.skip_steps is not None:
        skipped = positions_of_steps(restored.cursor, restored.step, request.skip_steps, partial(take, run))
    if skipped is not None:
        restored = restored.skipping([skipped])
    adjustment = None
    if request.for_steps is not None:
        adjustment = Adjustment(
            learning_rate_factor=request.learning_rate_factor,
            adam_betas=request.adam_betas,
            until_step=restored.step + request.for_steps,
        )
    return replace(
        restored,
        adjustment=adjustment,
        rollback=RollbackRecord(
            order=order.fingerprint,
            from_step=state.step,
            to_step=restored.step,
            attempt=restored.attempt,
            reason=order.reason,
        ),
    )


def positions_of_steps(
    cursor: Cursor,
    step: int,
    steps: tuple[int, int],
    take_step: Callable[[Cursor, int], tuple[Positions, Cursor]],
) -> tuple[int, int]:
    """Positions [start, stop) of the samples that steps `first … last` take, counted from a cursor behind `step`.

    Steps up to `step` are behind the cursor and are not part of it. `take_step` gives the positions of the step that
    begins at a cursor, and the cursor of the next one.
    """
    first, last = max(steps[0], step + 1), steps[1]
    start = stop = cursor.next_position
    for number in range(step + 1, last + 1):
        positions, cursor = take_step(cursor, number)
        if number == first:
            start = int(positions[0])
        stop = int(positions[-1]) + 1
    return start, max(start, stop)


def _say(run: Run, state: TrainState, kind: str, text: str, **fields: object) -> None:
    if run.recorder is not None:
        run.recorder.event(kind, attempt=state.attempt, step=state.step, **fields)
        run.recorder.message(text)
