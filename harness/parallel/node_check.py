"""Looks at every node before training: `python -m harness.parallel.node_check --launch DIR`, as every rank of the job.

Every rank says what it is, rank 0 names those that do not answer, all look for a file that rank 0 wrote, and a small
all-reduce runs over each kind of group. `<launch>/nodes.json` has what was found; what is wrong is told by host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it

from harness.config.load import load_config
from harness.errors import HarnessError, UsageError
from harness.parallel import collectives, device
from harness.parallel import mcore as parallel
from harness.parallel.environment import ProcessRanks, read_ranks
from harness.plan.plan import make_plan

ANSWER_WITHIN_S = 120.0
"""How long rank 0 waits for the others, from its own start."""
CLOCKS_AGREE_WITHIN_S = 5.0
FILES_APPEAR_WITHIN_S = 60.0
"""Network file systems show a new file late: NFS after up to a minute."""
SLOW_FACTOR = 3.0
"""A group is slow if its all-reduce takes so many times the median of the groups of its kind."""
SLOW_AT_LEAST_MS = 20.0
_BYTES_ON_GPU = 64 * 2**20
_BYTES_ON_CPU = 2**20
_ROUNDS = 5
_PACKAGES = ("harness", "torch", "megatron-core")


@dataclass(frozen=True, kw_only=True, eq=False)
class RankReport:
    """What one rank found."""

    rank: int
    host: str
    device: str
    memory_gib: float | None
    versions: dict[str, str]
    clock_s: float
    """Seconds since 1970 at the same moment on all ranks, to within a few milliseconds."""
    sees_file: bool
    """Whether it saw the file that rank 0 wrote into the launch's folder."""
    all_reduce_ms: dict[str, float]
    """Median time of an all-reduce, by kind of group."""
    gib_per_s: dict[str, float]
    """Bus bandwidth of it: 2 (n - 1) / n times the bytes, over the time."""


def problems(reports: Sequence[RankReport]) -> list[str]:
    """What is wrong with the nodes, by what their ranks found (pure)."""
    found = []
    usual_versions = statistics.mode(tuple(sorted(report.versions.items())) for report in reports)
    usual_device = statistics.mode(report.device for report in reports)
    clock = statistics.median(report.clock_s for report in reports)
    for report in reports:
        where = f"{report.host} (rank {report.rank})"
        if not report.sees_file:
            found.append(f"{where} does not see what rank 0 writes into the run's directory: is it on a shared disk?")
        if tuple(sorted(report.versions.items())) != usual_versions:
            found.append(f"{where} has {_told(report.versions)}, others have {_told(dict(usual_versions))}")
        if report.device != usual_device:
            found.append(f"{where} computes on {report.device}, others on {usual_device}")
        if abs(report.clock_s - clock) > CLOCKS_AGREE_WITHIN_S:
            found.append(f"{where} has a clock that is {report.clock_s - clock:+.1f} s off")
    return found


def slow_groups(reports: Sequence[RankReport]) -> list[str]:
    """Ranks whose all-reduce took much longer than those of their like, with their hosts (pure)."""
    found = []
    for kind in dict.fromkeys(kind for report in reports for kind in report.all_reduce_ms):
        times = {report: report.all_reduce_ms[kind] for report in reports if kind in report.all_reduce_ms}
        usual = statistics.median(times.values())
        limit = max(SLOW_FACTOR * usual, usual + SLOW_AT_LEAST_MS)
        found += [
            f"{report.host} (rank {report.rank}): all-reduce over its {kind} group takes {taken:.1f} ms, "
            f"elsewhere {usual:.1f} ms"
            for report, taken in times.items()
            if taken > limit
        ]
    return found


def check(launch: Path, ranks: ProcessRanks, say: Callable[[str], None]) -> list[RankReport]:
    """Looks at the nodes and returns what every rank found. Every rank must call it.

    Raises:
        HarnessError: Ranks do not answer, or a node is not fit to train. Raised on every rank that can know.
    """
    config = load_config(launch / "config.yaml")
    layout = make_plan(config, ranks.world_size).layout
    where = device.select(ranks.local_rank)
    dist.init_process_group(
        backend="nccl" if where.type == "cuda" else "gloo",
        store=_meet(ranks),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timedelta(seconds=ANSWER_WITHIN_S),
        device_id=where if where.type == "cuda" else None,
    )
    try:
        parallel.start(layout, rank=ranks.rank, device=where, seed=config.run.seed)
        times = {kind: _all_reduce_ms(group, where) for kind, group in parallel.groups_by_kind().items()}
        reports = collectives.gathered(_report(ranks, where, times, sees_file=_sees_file(launch, ranks)))
    finally:
        parallel.end()
    if ranks.rank == 0:
        _publish(launch, reports, say)
    if found := problems(reports):
        raise HarnessError("the nodes are not fit to train:\n" + "\n".join(f"  {problem}" for problem in found))
    return reports


def _meet(ranks: ProcessRanks) -> TCPStore:
    """The store at which all ranks meet; rank 0 waits until all have come, and names those that have not.

    Raises:
        HarnessError: Some ranks did not come (on rank 0), or rank 0 cannot be reached (on the others).
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
    try:
        store = TCPStore(
            address,
            port,
            is_master=ranks.rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=ANSWER_WITHIN_S),
        )
    except RuntimeError as error:
        raise HarnessError(
            f"{socket.gethostname()} (rank {ranks.rank}) cannot reach rank 0 at {address}:{port}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    store.set(f"here/{ranks.rank}", socket.gethostname())
    if ranks.rank == 0:
        _wait_for_all(store, ranks.world_size)
    return store


def _wait_for_all(store: TCPStore, world_size: int) -> None:
    missing = list(range(world_size))
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while missing := [rank for rank in missing if not store.check([f"here/{rank}"])]:
        if time.monotonic() >= deadline:
            named = ", ".join(map(str, missing[:16])) + (" …" if len(missing) > 16 else "")
            raise HarnessError(
                f"{len(missing)} of {world_size} ranks did not answer within {ANSWER_WITHIN_S:g} s: rank {named}; "
                "look at node_*.log of their nodes"
            )
        time.sleep(0.2)


def _report(ranks: ProcessRanks, where: torch.device, times: dict[str, float], *, sees_file: bool) -> RankReport:
    num_bytes = _num_bytes(where)
    sizes = {kind: group.size() for kind, group in parallel.groups_by_kind().items()}
    collectives.barrier()
    return RankReport(
        rank=ranks.rank,
        host=socket.gethostname(),
        device=device.name(where),
        memory_gib=device.memory_gib(where),
        versions={name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version(), "cuda": device.cuda_version(where)},
        clock_s=time.time(),
        sees_file=sees_file,
        all_reduce_ms={kind: round(taken, 3) for kind, taken in times.items()},
        gib_per_s={
            kind: round(2 * (sizes[kind] - 1) / sizes[kind] * num_bytes / 2**30 / (taken / 1e3), 3)
            for kind, taken in times.items()
        },
    )


def _all_reduce_ms(group: dist.ProcessGroup, where: torch.device) -> float:
    """Median time of an all-reduce over the group, after one that opens its connections."""
    tensor = torch.zeros(_num_bytes(where) // 4, device=where)
    times = []
    for _ in range(_ROUNDS + 1):
        dist.barrier(group)
        device.synchronize(where)
        started = time.perf_counter()
        collectives.sum_over(tensor, group)
        device.synchronize(where)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def _sees_file(launch: Path, ranks: ProcessRanks) -> bool:
    """Whether this rank can read what rank 0 writes now."""
    nonce = collectives.from_rank_0(secrets.token_hex(8))
    path = launch / f"seen_{nonce}"
    if ranks.rank == 0:
        path.write_text(nonce)
    collectives.barrier()
    deadline = time.monotonic() + FILES_APPEAR_WITHIN_S
    while not (seen := path.is_file() and path.read_text() == nonce) and time.monotonic() < deadline:
        time.sleep(0.5)
    collectives.barrier()
    if ranks.rank == 0:
        path.unlink()
    return seen


def _publish(launch: Path, reports: Sequence[RankReport], say: Callable[[str], None]) -> None:
    (launch / "nodes.json").write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    first = reports[0]
    hosts = len({report.host for report in reports})
    memory = "" if first.memory_gib is None else f" ({first.memory_gib:.0f} GiB)"
    say(f"nodes: {len(reports)} ranks on {hosts} hosts, {first.device}{memory}; {_told(first.versions)}")
    for kind in first.all_reduce_ms:
        taken = [report.all_reduce_ms[kind] for report in reports if kind in report.all_reduce_ms]
        speed = [report.gib_per_s[kind] for report in reports if kind in report.gib_per_s]
        say(f"  {kind}: all-reduce {min(taken):.1f} to {max(taken):.1f} ms, {min(speed):.2f} to {max(speed):.2f} GiB/s")
    for slow in slow_groups(reports):
        say(f"warning: slow: {slow}")


def _num_bytes(where: torch.device) -> int:
    return _BYTES_ON_GPU if where.type == "cuda" else _BYTES_ON_CPU


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _told(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main(arguments: Sequence[str]) -> int:
    """Checks the nodes as one rank, and returns the exit code."""
    parser = argparse.ArgumentParser(description="One rank of the check of all nodes before training.")
    parser.add_argument("--launch", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        ranks = read_ranks()
        if ranks is None:
            raise UsageError("this process has no rank; the batch script starts it on every node")
        check(given.launch, ranks, _say)
    except HarnessError as error:
        sys.stderr.write(f"harness: error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
