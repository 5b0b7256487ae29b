"""Compares the ranks at regular steps, to find slow ones.

All ranks do a step together, so the time of a step is the same on all of them and does not show which rank is slow. The
ranks differ in what each does alone: a fixed product of matrices on its device, and waiting for its data.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch

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
    compute_ms = device.compute_ms(run.device)
    own = [compute_ms, step_s, run.heartbeat.take_spent_s(Activity.DATA), float(crc32(socket.gethostname().encode()))]
    of_all = collectives.joined(torch.tensor(own, dtype=torch.float64, device=run.device))
    rows = of_all.view(run.ranks.world.size, len(own)).tolist()
    paces = [Pace(rank=rank, compute_ms=row[0], step_s=row[1], data_s=row[2]) for rank, row in enumerate(rows)]
    # Processes that share the cores of one machine are slow by turns, so their times mean nothing.
    is_telling = run.device.type == "cuda" or len({row[3] for row in rows}) > 1
    run.heartbeat.compute_ms = round(compute_ms, 3) if is_telling else None
    if is_telling and slow_of(paces):  # on every rank, or on none
        text = slow_text(paces, collectives.gathered_at_rank_0(socket.gethostname()) or [""] * len(paces))
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


def slow_of(paces: Sequence[Pace]) -> list[Pace]:
    """Return the ranks that are slow at computing, of all ranks in order, the slowest first (pure)."""
    return [paces[rank] for rank in slow_ranks({pace.rank: pace.compute_ms for pace in paces})]


def slow_text(paces: Sequence[Pace], hosts: Sequence[str]) -> str:
    """Return the slow ranks, of which there is one, in words (pure). `hosts` are those of all ranks, in order."""
    slow = slow_of(paces)
    named = ", ".join(f"rank {pace.rank} on {hosts[pace.rank]} ({pace.compute_ms:.2f} ms)" for pace in slow[:8])
    more = f" and {len(slow) - 8} more" if len(slow) > 8 else ""
    usual_ms = usual_time({pace.rank: pace.compute_ms for pace in paces})
    return f"slow at computing: {named}{more}, where others take {usual_ms:.2f} ms"
