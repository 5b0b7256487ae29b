"""Checkpoints written beside training: begun at one step and published some steps later, one at a time.

Every rank copies its state and forks a process that writes it. At each step the ranks agree, in one small reduction,
whether all have written. Then they write the index together, and the first rank's desk publishes the
checkpoint. Until then it does not exist, and a crash goes back to the one before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import SaveFailedError
from harness.parallel import collectives
from harness.run.event_types import SaveWaited
from harness.run.heartbeats import Activity
from harness.train.components.in_flight import Flight
from harness.train.components.stages import Stages
from harness.train.run import Run
from harness.train.saving import saving
from harness.train.saving import suspects as quarantine
from harness.train.state import TrainState


def save_or_begin(run: Run, state: TrainState, *, now: bool) -> TrainState:
    """Save the state, or begin to if saves are asynchronous and nothing waits for it. Every rank must call it.

    A state that is being saved already, after a rollback, is saved again only if that fails and somebody waits for it.
    """
    flight = run.in_flight.flight
    is_under_way = flight is not None and (flight.state.attempt, flight.state.step) == (state.attempt, state.step)
    if is_under_way and not now:
        return state
    state = finish_save(run, state)
    if is_under_way and state.is_saved:
        return state
    if now or not run.config.checkpoint.async_save:
        return saving.save(run, state)
    with _stalling(run, state):
        return _begin(run, state)


def advance(run: Run, state: TrainState) -> TrainState:
    """Advance the save under way by one stage if all ranks are ready. Every rank must call it at each step.

    Also releases an earlier checkpoint that has become clean.
    """
    quarantine.release_due(run, state)
    flight = run.in_flight.flight
    if flight is None:
        return state
    waits = not flight.writing.is_done() if not flight.is_written else _is_publishing(flight)
    if collectives.is_true_anywhere(waits):
        return state
    with _stalling(run, state):
        return _finish(run, state, flight) if flight.is_written else _conclude(run, state, flight)


def finish_save(run: Run, state: TrainState) -> TrainState:
    """Wait for the save under way, before another one, a rollback or the end. Every rank must call it."""
    flight = run.in_flight.flight
    if flight is None:
        return state
    with _stalling(run, state):
        if not flight.is_written:
            state = _conclude(run, state, flight)
        return state if run.in_flight.flight is None else _finish(run, state, flight)


def _begin(run: Run, state: TrainState) -> TrainState:
    stages = Stages("begin")
    partial, problem = collectives.from_rank_0(saving.begin(run, state))
    if partial is None:
        return saving.conclude(run, state, state, None, problem, stages)
    stages.enter("stage")
    writing = run.saver.begin(partial, measure=run.optimizer.own_squares, with_sha256=saving.signs(run))
    if writing.not_beside is not None:
        text = f"warning: no process could be started to write beside training, which waited: {writing.not_beside}"
        run.announce(text, SaveWaited(attempt=state.attempt, step=state.step, reason=writing.not_beside))
    elif (reason := run.saver.waits_for_copy) is not None:
        text = f"warning: training waited for the copy of its state from the GPU: {reason}"
        run.announce(text, SaveWaited(attempt=state.attempt, step=state.step, reason=reason))
    run.in_flight.flight = Flight(
        state=state,
        partial=partial,
        manifest=saving.manifest(run, state, {}, 0.0) if run.ranks.is_writer else None,
        writing=writing,
        stages=stages,
    )
    stages.enter("write")
    return state


def _conclude(run: Run, state: TrainState, flight: Flight) -> TrainState:
    """Write the index, after all ranks have written, and let the first rank publish."""
    flight.stages.enter("index")
    try:
        records = flight.writing.finish()
    except SaveFailedError as error:
        run.in_flight.flight = None
        problem = saving.not_written(run, flight.state, flight.partial, error)
        return saving.conclude(run, state, flight.state, None, problem, flight.stages)
    flight.is_written = True
    norms = run.optimizer.joint_norms(flight.writing.measured)
    if flight.manifest is not None:
        written_s = round(flight.stages.total_s, 3)
        about = flight.manifest.model_copy(update={"save_seconds": written_s, "optimizer_norms": norms})
        flight.publishing = run.desk.begin(lambda: saving.publish(run, flight.state, flight.partial, about, records))
    flight.stages.enter("publish")
    return state


def _finish(run: Run, state: TrainState, flight: Flight) -> TrainState:
    """Return the state after the checkpoint was published or refused; every rank gets the same result."""
    outcome: tuple[Path | None, str | None] = (None, None)
    if flight.publishing is not None:
        outcome = saving.path_or_problem(flight.publishing.result)
    path, problem = collectives.from_rank_0(outcome)
    run.in_flight.flight = None
    return saving.conclude(run, state, flight.state, path, problem, flight.stages)


def _is_publishing(flight: Flight) -> bool:
    return flight.publishing is not None and not flight.publishing.done()


@contextmanager
def _stalling(run: Run, state: TrainState) -> Iterator[None]:
    """Count the time of the `with` block as lost to training."""
    started_s = time.perf_counter()
    run.heartbeat.enter(Activity.SAVE, state.step)
    try:
        yield
    finally:
        run.in_flight.stall_s += time.perf_counter() - started_s
