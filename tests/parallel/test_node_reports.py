"""Which nodes are not fit to train, by what their ranks found."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest

from harness.parallel.node_reports import (
    Fault,
    RankReport,
    exchange_rounds,
    other_drivers,
    slow_groups,
    slow_nodes,
    to_exclude,
    unfit,
)

USUAL = RankReport(
    rank=0,
    host="n0",
    device="H100",
    memory_gib=80.0,
    versions={"torch": "2.9"},
    driver="550.54",
    clock_s=1000.0,
    sees_file=True,
    compute_ms=0.2,
    all_reduce_ms={"world": 10.0},
    gib_per_s={"world": 100.0},
    exchange_ms={},
)


def report(rank: int, **changes: object) -> RankReport:
    return replace(USUAL, rank=rank, host=f"n{rank}", **changes)  # type: ignore[arg-type]


def ring(num_nodes: int, slow: set[frozenset[int]]) -> list[RankReport]:
    """One rank on every node of a ring, with the lines between these pairs slow."""
    lines: dict[int, dict[str, float]] = {node: {} for node in range(num_nodes)}
    for one, other in chain.from_iterable(exchange_rounds(num_nodes)):
        taken = 500.0 if frozenset((one, other)) in slow else 5.0
        lines[one][f"n{other}"] = lines[other][f"n{one}"] = taken
    return [report(node, exchange_ms=times) for node, times in lines.items()]


def test_what_is_unfit_is_told_by_host() -> None:
    reports = [
        report(0),
        report(1, sees_file=False),
        report(2, versions={"torch": "2.8"}),
        report(3, device="A100"),
        report(4, clock_s=993.0),
        report(5, clock_s=1004.0),
    ]
    found = unfit(reports)
    assert [fault.host for fault in found] == ["n1", "n2", "n3", "n4"]
    assert [fault.text for fault in found] == [
        "n1 (rank 1) does not see what rank 0 writes into the run's directory: is it on a shared disk?",
        "n2 (rank 2) has torch 2.8, others have torch 2.9",
        "n3 (rank 3) computes on A100, others on H100",
        "n4 (rank 4) has a clock that is -7.0 s off",
    ]


def test_another_driver_is_told_but_trains() -> None:
    reports = [report(0), report(1, driver="535.10"), report(2)]
    assert [fault.text for fault in other_drivers(reports)] == ["n1 (rank 1) has driver 535.10, others have 550.54"]
    assert unfit(reports) == []


def test_slow_groups_are_those_much_slower_than_their_like() -> None:
    slow, slower = {"world": 29.0}, {"world": 90.0}
    reports = [report(0), report(1), report(2, all_reduce_ms=slower), report(3, all_reduce_ms=slow), report(4)]
    assert [fault.text for fault in slow_groups(reports)] == [
        "n2 (rank 2) takes 90.0 ms for an all-reduce over its world group, elsewhere it is 10.0 ms"
    ]


def test_a_device_that_computes_slowly_is_a_slow_node() -> None:
    found = slow_nodes([report(0), report(1, compute_ms=0.29), report(2, compute_ms=0.4), report(3)])
    assert [fault.text for fault in found] == ["n2 (rank 2) computes for 0.4 ms where others take 0.2 ms"]


def test_a_node_with_slow_lines_to_all_its_neighbours_is_slow() -> None:
    (fault,) = slow_nodes(ring(6, {frozenset((2, 3)), frozenset((3, 4))}))
    assert fault.host == "n3"
    assert fault.text == "n3 (rank 3) exchanges data slowly with all its neighbours: 500.0 ms with n2, 500.0 ms with n4"


def test_one_slow_line_leaves_open_whose_it_is() -> None:
    assert slow_nodes(ring(6, {frozenset((2, 3))})) == []
    assert slow_nodes(ring(2, {frozenset((0, 1))})) == []


def test_at_most_half_of_the_nodes_are_excluded() -> None:
    faults = [Fault(host="n1", text="slow"), Fault(host="n1", text="late"), Fault(host="n2", text="slow")]
    assert to_exclude(faults, 4) == {"n1": ["slow", "late"], "n2": ["slow"]}
    assert to_exclude(faults, 3) == {}


@pytest.mark.parametrize("num_nodes", range(1, 9))
def test_in_a_round_a_node_has_one_partner_and_in_all_rounds_its_neighbours(num_nodes: int) -> None:
    rounds = exchange_rounds(num_nodes)
    for pairs in rounds:
        busy = list(chain.from_iterable(pairs))
        assert len(busy) == len(set(busy))
    lines = {frozenset(pair) for pair in chain.from_iterable(rounds)}
    assert lines == {frozenset((node, (node + 1) % num_nodes)) for node in range(num_nodes) if num_nodes > 1}
