"""Measures what a run forgets: held-out losses before its first step, and what became worse at the end of each phase.

What was measured is part of the state, and of its checkpoints: a start goes on with it, and a rollback returns to it.
"""

from __future__ import annotations

import time
from dataclasses import replace

from harness.metrics.recorder import Recorder
from harness.run.checkpoints.manifest import HeldOutLosses
from harness.run.commands.command import Command
from harness.run.heartbeats import Activity
from harness.run.held_out_events import BaseLosses, PhaseLosses
from harness.run.records import StepRecord, last_key
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.steps.evaluate import Evaluation, evaluate
from harness.train.steps.losses_compared import Comparison, compared, losses_in, summary


def measure_base(run: Run, state: TrainState) -> tuple[TrainState, list[Command]]:
    """Evaluate before the first step, if that is due; return the state and commands that came meanwhile.

    A command to stop ends it early; the next start, or the next turn, then measures again. Every rank must call it.
    """
    is_due = run.config.evaluation.measure_forgetting and state.has_made_no_step and state.base_losses is None
    if not is_due or run.held_out is None:
        return state, []
    run.heartbeat.enter(Activity.EVALUATE, state.step)
    found = evaluate(run.pipeline, run.held_out, run.ranks, run.phase.num_microbatches, run.inbox)
    if not found.values:
        return state, found.commands
    state = replace(state, base_losses=_losses(run, state, found))
    if run.recorder is not None:
        _report_base(run, run.recorder, state, found)
    return state, found.commands


def compare_losses(run: Run, state: TrainState, evaluation: Evaluation | None) -> TrainState:
    """Tell at the end of a phase which channels became worse; return the state that remembers its losses."""
    if not run.config.evaluation.measure_forgetting or state.step != run.phase.last_step:
        return state
    if evaluation is None or not evaluation.values:
        return state
    now = _losses(run, state, evaluation)
    since_base, since_phase = compared(now, state.base_losses), compared(now, state.phase_losses)
    event = PhaseLosses(
        attempt=state.attempt,
        step=state.step,
        phase=now.phase,
        losses=now.losses,
        since_base=_rises(since_base),
        before=None if since_phase is None else since_phase.before.phase,
        since_phase=_rises(since_phase),
        worse_than_base=() if since_base is None else since_base.worse,
        worse_than_phase=() if since_phase is None else since_phase.worse,
        other_length=any(each is not None and each.is_of_other_length for each in (since_base, since_phase)),
    )
    first, *others = summary(now, since_base, since_phase)
    run.announce(first, event)
    for line in others:
        run.announce(line)
    return replace(state, phase_losses=now)


def _report_base(run: Run, recorder: Recorder, state: TrainState, found: Evaluation) -> None:
    losses = losses_in(found.values)
    recorder.event(BaseLosses(attempt=state.attempt, step=state.step, losses=losses))
    run.desk.settle()
    if state.step == 0 or last_key(run.run_dir.metrics) is None:
        recorder.step(_record(run, state, found))
    else:  # the record of a step that was trained stays
        told = ", ".join(f"{channel} {loss:.4f}" for channel, loss in losses.items())
        recorder.message(f"held-out losses before the first step of this run: {told}")


def _losses(run: Run, state: TrainState, evaluation: Evaluation) -> HeldOutLosses:
    return HeldOutLosses(
        step=state.step,
        phase=run.phase.name,
        seq_length=run.phase.seq_length,
        losses=losses_in(evaluation.values),
    )


def _rises(comparison: Comparison | None) -> dict[str, float]:
    return {} if comparison is None else dict(comparison.rises)


def _record(run: Run, state: TrainState, evaluation: Evaluation) -> StepRecord:
    """Return the record of the step before the first one: it has an evaluation, and no samples."""
    return StepRecord(
        attempt=state.attempt,
        step=state.step,
        time=time.time(),
        phase=run.phase.name,
        consumed_samples=state.cursor.consumed_samples,
        consumed_tokens=state.cursor.consumed_tokens,
        batch_hash=0,
        values=evaluation.values,
    )
