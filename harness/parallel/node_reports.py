"""Judges from the ranks' reports which nodes are unfit for training (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

CLOCKS_AGREE_WITHIN_S = 5.0
SLOW_FACTOR = 3.0
"""An exchange is slow if it takes this many times the median of its kind, and at least `SLOW_AT_LEAST_MS` longer."""
SLOW_AT_LEAST_MS = 20.0
SLOW_COMPUTE_FACTOR = 1.5
"""A rank is slow if it computes this many times as long as the median rank."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RankReport:
    """The report of one rank."""

    rank: int
    host: str
    """Name of its node, as the scheduler calls it."""
    device: str
    memory_gib: float | None
    versions: dict[str, str]
    driver: str
    """Version of the GPU's driver. Nodes with different ones train together, but people should know."""
    clock_s: float
    """Seconds since 1970 at the same moment on all ranks, to within a few milliseconds."""
    sees_file: bool
    """The rank saw the file that rank 0 wrote into the launch's folder."""
    compute_ms: float
    """Time of a fixed product of matrices on its device alone."""
    all_reduce_ms: dict[str, float]
    """Median time of an all-reduce, by kind of group."""
    gib_per_s: dict[str, float]
    """Bus bandwidth of it: 2 (n - 1) / n times the bytes, over the time."""
    exchange_ms: dict[str, float]
    """Time in which a node's first rank sends to a neighbour and gets it back, by the neighbour's host."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A problem of a node."""

    host: str
    text: str
    """For people; names the host."""


def unfit(reports: Sequence[RankReport]) -> list[Fault]:
    """Return the reasons why nodes cannot train together."""
    usual_versions = statistics.mode(tuple(sorted(report.versions.items())) for report in reports)
    usual_device = statistics.mode(report.device for report in reports)
    clock = statistics.median(report.clock_s for report in reports)

    def problems(report: RankReport) -> Iterator[str]:
        if not report.sees_file:
            yield "does not see what rank 0 writes into the run's directory: is it on a shared disk?"
        if tuple(sorted(report.versions.items())) != usual_versions:
            yield f"has {versions_text(report.versions)}, others have {versions_text(dict(usual_versions))}"
        if report.device != usual_device:
            yield f"computes on {report.device}, others on {usual_device}"
        if abs(report.clock_s - clock) > CLOCKS_AGREE_WITHIN_S:
            yield f"has a clock that is {report.clock_s - clock:+.1f} s off"

    return _faults(reports, problems)


def slow_nodes(reports: Sequence[RankReport]) -> list[Fault]:
    """Return the nodes that slow the others down: they compute slowly, or their links to every neighbour are slow.

    A slow link alone does not show which of its two nodes is slow. A node is to blame if all its links are slow and
    each of its neighbours has a link that is not.
    """
    usual_ms = statistics.median_low(report.compute_ms for report in reports)
    slow_links = _slow_links(reports)
    links = {report.host: set(report.exchange_ms) for report in reports if report.exchange_ms}

    def is_to_blame(host: str) -> bool:
        neighbours = links.get(host, set())
        return bool(neighbours) and all(
            slow_links.get((host, other)) and any(not slow_links.get((other, far)) for far in links.get(other, ()))
            for other in neighbours
        )

    def problems(report: RankReport) -> Iterator[str]:
        if report.compute_ms > SLOW_COMPUTE_FACTOR * usual_ms:
            yield f"computes for {report.compute_ms:.1f} ms where others take {usual_ms:.1f} ms"
        if report.exchange_ms and is_to_blame(report.host):
            times = ", ".join(f"{taken:.1f} ms with {other}" for other, taken in report.exchange_ms.items())
            yield f"exchanges data slowly with all its neighbours: {times}"

    return _faults(reports, problems)


def slow_groups(reports: Sequence[RankReport]) -> list[Fault]:
    """Return the groups of ranks whose all-reduce takes much longer than that of other groups of their kind."""
    times: dict[str, list[float]] = {}
    for report in reports:
        for kind, taken in report.all_reduce_ms.items():
            times.setdefault(kind, []).append(taken)
    medians = {kind: statistics.median(of_kind) for kind, of_kind in times.items()}

    def problems(report: RankReport) -> Iterator[str]:
        for kind, taken in report.all_reduce_ms.items():
            if _is_slow(taken, usual := medians[kind]):
                yield f"takes {taken:.1f} ms for an all-reduce over its {kind} group, elsewhere it is {usual:.1f} ms"

    return _faults(reports, problems)


def other_drivers(reports: Sequence[RankReport]) -> list[Fault]:
    """Return the nodes whose driver differs from that of most."""
    usual = statistics.mode(report.driver for report in reports)

    def problems(report: RankReport) -> Iterator[str]:
        if report.driver != usual:
            yield f"has driver {report.driver}, others have {usual}"

    return _faults(reports, problems)


def to_exclude(faults: Sequence[Fault], num_nodes: int) -> dict[str, list[str]]:
    """Return the nodes that a job should not get again, each with the reasons.

    None if more than half of the nodes would be among them: then what they have in common is to blame.
    """
    nodes: dict[str, list[str]] = {}
    for fault in faults:
        nodes.setdefault(fault.host, []).append(fault.text)
    return nodes if 2 * len(nodes) <= num_nodes else {}


def exchange_rounds(num_nodes: int) -> list[list[tuple[int, int]]]:
    """Return the pairs of neighbours in a ring of nodes, in rounds in which a node has at most one partner."""
    rounds = [[(node, (node + 1) % num_nodes) for node in range(first, num_nodes, 2)] for first in (0, 1)]
    if num_nodes % 2:
        closing = rounds[0].pop()  # its partner is busy in this round
        rounds.append([closing])
    return rounds if num_nodes > 2 else rounds[: num_nodes - 1]


def versions_text(versions: Mapping[str, str]) -> str:
    """Return versions as text for people."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _faults(reports: Sequence[RankReport], problems: Callable[[RankReport], Iterator[str]]) -> list[Fault]:
    return [
        Fault(host=report.host, text=f"{report.host} (rank {report.rank}) {problem}")
        for report in reports
        for problem in problems(report)
    ]


def _slow_links(reports: Sequence[RankReport]) -> dict[tuple[str, str], bool]:
    """Return for each pair of neighbours whether the link between them is slow, from either end."""
    times = {(report.host, other): taken for report in reports for other, taken in report.exchange_ms.items()}
    usual = statistics.median_low(times.values()) if times else 0.0
    return {link: _is_slow(taken, usual) for link, taken in times.items()}


def _is_slow(taken_ms: float, usual_ms: float) -> bool:
    return taken_ms > max(SLOW_FACTOR * usual_ms, usual_ms + SLOW_AT_LEAST_MS)
