"""Checkpoints written beside training: begun at one step, published some steps later, one at a time.

Every rank copies its state and forks a process that writes it. At each step the ranks ask each other, in one small
reduction, whether all have written; then the index is written together, and a thread of the first rank hashes the files
and publishes the checkpoint. Until that moment it does not exist, and the one before it is what a crash goes back to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from harness.checkpoint import mcore
from harness.errors import SaveFailedError
from harness.parallel import collectives
from harness.run.event_types import SaveWaited
from harness.run.heartbeats import Activity
from harness.train.run import Run
from harness.train.saving import saving
from harness.train.saving import suspects as quarantine
from harness.train.saving.in_flight import Flight
from harness.train.state import TrainState


def save_or_begin(run: Run, state: TrainState, *, now: bool) -> TrainState:
    """Saves the state, or begins to if the configuration says so and nobody waits for it. Every rank must call it."""
    state = settle(run, state)
    if now or not run.config.checkpoint.async_save:
        return saving.save(run, state)
    with _stalling(run, state):
        return _begin(run, state)


def advance(run: Run, state: TrainState) -> TrainState:
    """Takes the save under way one stage further if all ranks are ready for it. Every rank must call it each step.

    It is also the moment at which an earlier checkpoint has proved good.
    """
    quarantine.release_due(run, state)
    flight = run.in_flight.flight
    if flight is None:
        return state
    waits = not flight.writing.is_done() if not flight.is_written else _is_publishing(flight)
    if collectives.sum_over(torch.tensor([float(waits)], device=run.device)).item():
        return state
    with _stalling(run, state):
        return _finish(run, state, flight) if flight.is_written else _conclude(run, state, flight)


def settle(run: Run, state: TrainState) -> TrainState:
    """Waits for the save under way, before another one, a rollback or the end. Every rank must call it."""
    flight = run.in_flight.flight
    if flight is None:
        return state
    with _stalling(run, state):
        if not flight.is_written:
            state = _conclude(run, state, flight)
        return state if run.in_flight.flight is None else _finish(run, state, flight)


def _begin(run: Run, state: TrainState) -> TrainState:
    started_s = time.perf_counter()
    partial, problem = collectives.from_rank_0(saving.begin(run, state))
    if partial is None:
        return saving.conclude(run, state, state, None, problem, time.perf_counter() - started_s)
    norms = run.optimizer.state_norms()
    writing = mcore.begin_save(partial, run.pipeline.chunks, run.optimizer.megatron)
    if writing.not_beside is not None and run.recorder is not None:
        text = f"warning: no process could be started to write beside training, which waited: {writing.not_beside}"
        run.recorder.event(SaveWaited(attempt=state.attempt, step=state.step, reason=writing.not_beside))
        run.recorder.message(text)
    run.in_flight.flight = Flight(
        state=state,
        partial=partial,
        manifest=saving.manifest(run, state, norms, 0.0) if run.ranks.is_writer else None,
        writing=writing,
        started_s=started_s,
    )
    return state


def _conclude(run: Run, state: TrainState, flight: Flight) -> TrainState:
    """All ranks have written: the index follows, then the first rank publishes."""
    try:
        flight.writing.finish()
    except SaveFailedError as error:
        run.in_flight.flight = None
        problem = saving.not_written(run, flight.state, flight.partial, error)
        return saving.conclude(run, state, flight.state, None, problem, time.perf_counter() - flight.started_s)
    flight.is_written = True
    if flight.manifest is not None:
        written_s = round(time.perf_counter() - flight.started_s, 3)
        manifest = flight.manifest.model_copy(update={"save_seconds": written_s})
        pool = ThreadPoolExecutor(max_workers=1)
        flight.publishing = pool.submit(run.store.publish, flight.partial, manifest)
        pool.shutdown(wait=False)  # the thread goes on, and ends by itself
    return state


def _finish(run: Run, state: TrainState, flight: Flight) -> TrainState:
    """The checkpoint is published, or is not: every rank hears which."""
    outcome: tuple[Path | None, str | None] = (None, None)
    if flight.publishing is not None:
        try:
            outcome = flight.publishing.result(), None
        except SaveFailedError as error:
            outcome = None, str(error)
    path, problem = collectives.from_rank_0(outcome)
    run.in_flight.flight = None
    return saving.conclude(run, state, flight.state, path, problem, time.perf_counter() - flight.started_s)


def _is_publishing(flight: Flight) -> bool:
    return flight.publishing is not None and not flight.publishing.done()


@contextmanager
def _stalling(run: Run, state: TrainState) -> Iterator[None]:
    """Counts the time as lost to training."""
    started_s = time.perf_counter()
    run.heartbeat.enter(Activity.SAVE, state.step)
    try:
        yield
    finally:
        run.in_flight.stall_s += time.perf_counter() - started_s
