"""Compares the ranks at regular steps, to find slow ones.

All ranks do a step together, so the time of a step is the same on all of them and does not show which rank is slow. The
ranks differ in what each does alone: a fixed product of matrices on its device, and waiting for its data.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from harness.metrics.stragglers import slow_ranks, usual_time
from harness.parallel import collectives, device
from harness.run import metric_names as names
from harness.run.event_types import SlowRanks
from harness.run.heartbeats import Activity
from harness.train.run import Run
from harness.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The speed of one rank."""

    rank: int
    host: str
    compute_ms: float
    """Time of a fixed product of matrices on its device alone."""
    step_s: float
    """Time of the last step."""
    data_s: float
    """Time for which it waited for data since the last comparison."""


def compare_ranks(run: Run, state: TrainState, step_s: float) -> dict[str, float]:
    """Return metrics of the differences between ranks, at the configured steps. Every rank must call it."""
    every = run.config.logging.compare_ranks_every_steps
    if every == 0 or state.step % every:
        return {}
    own = Pace(
        rank=run.ranks.world.rank,
        host=socket.gethostname(),
        compute_ms=device.compute_ms(run.device),
        step_s=step_s,
        data_s=run.heartbeat.take_spent_s(Activity.DATA),
    )
    paces = collectives.gathered(own)
    # Processes that share the cores of one machine are slow by turns, so their times mean nothing.
    is_telling = run.device.type == "cuda" or len({pace.host for pace in paces}) > 1
    run.heartbeat.compute_ms = round(own.compute_ms, 3) if is_telling else None
    if is_telling and (text := slow_text(paces)):
        run.announce(f"warning: {text}", SlowRanks(attempt=state.attempt, step=state.step, reason=text))
    return spread(paces)


def spread(paces: Sequence[Pace]) -> dict[str, float]:
    """Return the differences between the ranks (pure)."""
    compute = {pace.rank: pace.compute_ms for pace in paces}
    data = {pace.rank: pace.data_s for pace in paces}
    steps = [pace.step_s for pace in paces]
    return {
        names.COMPUTE_SPREAD: max(compute.values()) / usual_time(compute),
        names.DATA_WAIT_SPREAD_S: max(data.values()) - usual_time(data),
        names.STEP_TIME_SPREAD_S: max(steps) - min(steps),
    }


def slow_text(paces: Sequence[Pace]) -> str | None:
    """Return the slow ranks with their hosts, for people (pure); None if there are none."""
    by_rank = {pace.rank: pace for pace in paces}
    compute = {pace.rank: pace.compute_ms for pace in paces}
    slow = [by_rank[rank] for rank in slow_ranks(compute)]
    if not slow:
        return None
    named = ", ".join(f"rank {pace.rank} on {pace.host} ({pace.compute_ms:.2f} ms)" for pace in slow[:8])
    more = f" and {len(slow) - 8} more" if len(slow) > 8 else ""
    return f"slow at computing: {named}{more}, where others take {usual_time(compute):.2f} ms"
