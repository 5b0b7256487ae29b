"""Returns a running job to an earlier checkpoint without restarting its processes, and skips samples for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from harness.checkpoint.loading import mcore as checkpoint_files
from harness.checkpoint.objections import objection_to
from harness.data.order.cursor import Cursor, Positions
from harness.errors import CheckpointError
from harness.parallel import collectives
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.lineage import Target, line_of, rollback_target
from harness.run.checkpoints.manifest import Adjustment, RollbackRecord
from harness.run.checkpoints.verify import HashFiles, verify_before_load
from harness.run.commands.command import Command
from harness.run.commands.requests import Rollback
from harness.run.event_types import RollbackDone, RollbackRefused, RolledBack
from harness.run.order_file import rollbacks_in_journal
from harness.train.commands.skipped_text import skipped_text
from harness.train.components.findings import found_by_rank_0
from harness.train.components.stages import Stages
from harness.train.run import Run
from harness.train.saving.aftermath import conclude_rollback
from harness.train.saving.background import save_or_begin
from harness.train.saving.snapshots import restore_snapshot
from harness.train.state import TrainState
from harness.train.steps.phases import take
from harness.train.steps.restored import require_restored


@dataclass(frozen=True, kw_only=True)
class _RollbackPlan:
    """The findings of rank 0 about a rollback, on which all ranks act."""

    target: Checkpoint | None = None
    problem: str | None = None
    """Reason why it cannot be carried out."""
    was_done: bool = False
    """True if it was carried out before a crash, and not acknowledged."""


def roll_back(run: Run, state: TrainState, command: Command) -> TrainState:
    """Carry out a command to roll back. Every rank must call it.

    Model, optimizer, schedule and cursor return, and the skip window is entered in the cursor. The new state is saved
    at once, in a new attempt, before the checkpoints after the target become `abandoned`. So a crash at any moment
    leaves either the state before the command, which is then found again and carried out, or the state after it. Where
    saves are asynchronous, training goes on meanwhile. So it does if the disk does not take the new state; then the
    command waits until a later one is saved.

    A command that cannot be carried out is reported and changes nothing.
    """
    request = command.request
    assert isinstance(request, Rollback), "the decision is to roll back"
    stages = Stages("find")
    run.settle()  # the plan looks at what was saved, removed and written down
    own = _plan_rollback(run, state, command, request) if run.ranks.is_writer else _RollbackPlan()
    plan = collectives.from_rank_0(own)
    if plan.was_done:
        done = RollbackDone(attempt=state.attempt, step=state.step, command=command.source)
        run.announce(f"the rollback by {command.source} was carried out before", done)
        run.desk.hand(partial(conclude_rollback, run, state))
        return state
    if plan.target is None:
        return _refused(run, state, command, plan.problem)
    stages.enter("load")
    rolled_back = _returned(run, state, plan.target, command, request)
    from_memory = restore_snapshot(run, plan.target.manifest)
    if not from_memory and (problem := _load(run, plan.target)) is not None:
        return _refused(run, state, command, problem)
    stages.enter("check")
    require_restored(run, rolled_back.step, plan.target.manifest.optimizer_norms, from_files=not from_memory)
    stages.enter("save")
    rolled_back = save_or_begin(run, rolled_back, now=False)
    event = RolledBack(
        attempt=rolled_back.attempt,
        step=rolled_back.step,
        command=command.source,
        reason=command.reason,
        from_step=state.step,
        from_attempt=state.attempt,
        skip_windows=rolled_back.cursor.skip_windows,
        skip_steps=request.skip_steps,
        from_memory=from_memory,
        stages=stages.seconds,
    )
    skipping = skipped_text(rolled_back.cursor.skip_windows, request, run.plan)
    run.announce(f"rolled back from step {state.step} to {plan.target.path}; {skipping}", event)
    return rolled_back


def _refused(run: Run, state: TrainState, command: Command, problem: str | None) -> TrainState:
    refused = RollbackRefused(attempt=state.attempt, step=state.step, command=command.source, reason=problem)
    run.inbox.refuse(command, problem)
    run.announce(f"warning: the rollback by {command.source} was not carried out: {problem}", refused)
    return state


def _plan_rollback(run: Run, state: TrainState, command: Command, request: Rollback) -> _RollbackPlan:
    """Return what the disk says about a command to roll back, on the writer."""
    try:
        entries = run.store.list()
    except OSError as error:
        return _RollbackPlan(problem=f"{error.strerror} ({error.filename})")
    try:
        written_down = {each.command for each in rollbacks_in_journal(run.run_dir.order)}
        records = [state.rollback, *(entry.manifest.rollback for entry in line_of(entries, state.saved))]
        if command.fingerprint in written_down | {record.command for record in records if record is not None}:
            return _RollbackPlan(was_done=True)
        target = rollback_target(entries, state.saved, Target(to_step=request.to_step, before_step=request.before_step))
    except CheckpointError as error:
        return _RollbackPlan(problem=str(error))
    return _RollbackPlan(target=target)


def _load(run: Run, target: Checkpoint) -> str | None:
    """Load the target from the shared store, or return why not, the same on every rank. Every rank must call it."""
    problem = collectives.from_rank_0(found_by_rank_0(run.ranks, partial(_problem_of, run, target)))
    if problem is None:
        checkpoint_files.load(target.path, run.pipeline.chunks, run.optimizer.megatron)
    return problem


def _problem_of(run: Run, target: Checkpoint, hash_files: HashFiles) -> str | None:
    try:
        verify_before_load(target.path, deep=True, key=run.store.key, hash_files=hash_files)
    except CheckpointError as error:
        return str(error)
    return objection_to(target.path)


def _returned(run: Run, state: TrainState, target: Checkpoint, command: Command, request: Rollback) -> TrainState:
    """Return the state of the target in a new attempt, with the changes of the command."""
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
            command=command.fingerprint,
            from_step=state.step,
            to_step=restored.step,
            attempt=restored.attempt,
            reason=command.reason,
        ),
    )


def positions_of_steps(
    cursor: Cursor,
    step: int,
    steps: tuple[int, int],
    take_step: Callable[[Cursor, int], tuple[Positions, Cursor]],
) -> tuple[int, int]:
    """Return the positions [start, stop) of the samples of steps `first … last`, counted from a cursor after `step`.

    Steps up to `step` are before the cursor and not included. `take_step` returns the positions of the step that begins
    at a cursor, and the cursor of the next one.
    """
    first, last = max(steps[0], step + 1), steps[1]
    start = stop = cursor.next_position
    for number in range(step + 1, last + 1):
        positions, cursor = take_step(cursor, number)
        if number == first:
            start = int(positions[0])
        stop = int(positions[-1]) + 1
    return start, max(start, stop)
