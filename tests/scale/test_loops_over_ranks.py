"""Loops over all ranks: four times the ranks are about four times the work, and never sixteen times."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from counted import growth

from harness.launch.collectives_dump import Dump, GroupState, absent_ranks
from harness.launch.diagnosis import _lines, diagnose
from harness.parallel import node_reports
from harness.parallel.node_reports import RankReport
from harness.run.heartbeats import Activity, Beat

FEW = 64
Loop = Callable[[int], Callable[[], object]]


def report(rank: int, num_ranks: int) -> RankReport:
    """Every 16th rank is slow in all that can be slow."""
    slow = 10.0 if rank % 16 == 0 else 1.0
    host, neighbour = f"n{rank // 8}", f"n{(rank // 8 + 1) % (num_ranks // 8)}"
    return RankReport(
        rank=rank,
        host=host,
        device="cpu",
        memory_gib=None,
        versions={"torch": "2"},
        driver="none" if slow == 1.0 else "old",
        clock_s=0.0 if slow == 1.0 else 9.0,
        sees_file=slow == 1.0,
        compute_ms=slow,
        all_reduce_ms={"world": 30 * slow, "data": 30 * slow},
        gib_per_s={},
        exchange_ms={neighbour: 30 * slow} if rank % 8 == 0 else {},
    )


def judged(judge: Callable[[list[RankReport]], object]) -> Loop:
    def of(num_ranks: int) -> Callable[[], object]:
        reports = [report(rank, num_ranks) for rank in range(num_ranks)]
        return lambda: judge(reports)

    return of


def beat(rank: int) -> Beat:
    """Half of the ranks are quiet, and every fourth reads and computes slowly."""
    slow = rank % 4 == 0
    return Beat(
        rank=rank,
        host=f"n{rank // 8}",
        pid=rank,
        step=3 - slow,
        activity=Activity.DATA,
        since=0.0,
        time=1000.0 if rank % 2 else 0.0,
        spent_s={Activity.DATA: 100.0 if slow else 1.0},
        compute_ms=9.0 if rank % 8 == 0 else 1.0,
    )


def diagnosed(num_ranks: int) -> Callable[[], object]:
    beats = [beat(rank) for rank in range(num_ranks)]
    return lambda: _lines(diagnose(beats, 2 * num_ranks, now=1001.0), 1001.0)


def dumped(num_ranks: int) -> Callable[[], object]:
    """Groups of eight ranks, and one of all of them, in which one has not come."""

    def dump(rank: int) -> Dump:
        first = rank - rank % 8
        own = GroupState(description="tensor", members=tuple(range(first, first + 8)), sequence=4)
        world = GroupState(description="world", members=everybody, sequence=5 - (rank == 3), is_done=rank == 3)
        return {f"group {first}": own, "world": world}

    everybody = tuple(range(num_ranks))
    dumps = {rank: dump(rank) for rank in range(num_ranks)}
    return lambda: absent_ranks(dumps)


LOOPS: dict[str, Loop] = {
    "unfit": judged(node_reports.unfit),
    "slow_nodes": judged(node_reports.slow_nodes),
    "slow_groups": judged(node_reports.slow_groups),
    "other_drivers": judged(node_reports.other_drivers),
    "diagnose": diagnosed,
    "absent_ranks": dumped,
}


@pytest.mark.parametrize("name", LOOPS)
def test_work_grows_with_the_ranks_and_not_with_their_square(name: str) -> None:
    assert LOOPS[name](FEW)()
    assert growth(LOOPS[name], FEW) < 6
