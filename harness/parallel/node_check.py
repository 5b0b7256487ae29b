"""Checks every node before training: `python -m harness.parallel.node_check --launch DIR`, as every rank of the job.

Every rank reports itself, and rank 0 names those that do not answer. All ranks look for a file that rank 0 wrote, every
device computes for a moment, and small exchanges run over each kind of group and between neighbouring nodes.
`<launch>/nodes.json` has the reports. Problems are reported by host, and `bad_nodes.json` has the nodes that the job
should not get again.
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
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it

from harness.config.load import load_config
from harness.errors import HarnessError, UsageError
from harness.parallel import collectives, device
from harness.parallel import mcore as parallel
from harness.parallel.environment import ProcessRanks, log_label, node_name, read_ranks
from harness.parallel.meeting import are_here, missing_of, patience_s, serve, tell_presence
from harness.parallel.node_reports import (
    Fault,
    RankReport,
    exchange_rounds,
    other_drivers,
    slow_groups,
    slow_nodes,
    to_exclude,
    unfit,
    versions_text,
)
from harness.plan.plan import make_plan
from harness.run.files import replace_file
from harness.run.launches import BAD_NODES, CONFIG, NODES, write_bad_nodes
from harness.say import complain, say
from harness.standard_streams import label_lines
from harness.version import VERSION

ANSWER_WITHIN_S = 120.0
"""Seconds that rank 0 waits for the others, from its own start; more for many ranks (`meeting.patience_s`)."""
FILES_APPEAR_WITHIN_S = 60.0
"""Network file systems show a new file late: NFS after up to a minute."""
_BYTES_ON_GPU = 64 * 2**20
_BYTES_ON_CPU = 2**20
_ROUNDS = 5
_PACKAGES = ("torch", "megatron-core")


def check(launch: Path, ranks: ProcessRanks, say: Callable[[str], object]) -> list[RankReport]:
    """Look at the nodes and return what every rank found, on rank 0. Every rank must call it.

    Raises:
        HarnessError: Ranks do not answer, or a node is not fit to train. Raised on every rank that can know.
    """
    config = load_config(launch / CONFIG)
    layout = make_plan(config, ranks.world_size).layout
    where = device.select(ranks.local_rank)
    dist.init_process_group(
        backend="nccl" if where.type == "cuda" else "gloo",
        store=_meet(launch, ranks),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timedelta(seconds=patience_s(ANSWER_WITHIN_S, ranks.world_size)),
    )
    try:
        parallel.start(layout, rank=ranks.rank, device=where, seed=config.run.seed)
        times = {kind: _all_reduce_ms(group, where) for kind, group in parallel.groups_by_kind().items()}
        exchanged = _exchange_ms(ranks, where)
        own = _report(ranks, where, times, exchanged, sees_file=_sees_file(launch, ranks))
        reports = collectives.gathered_at_rank_0(own)
        faults: list[Fault] = []
        if ranks.rank == 0:
            _publish(launch, reports, say)
            faults = unfit(reports) + (slow_nodes(reports) if config.launch.exclude_bad_nodes else [])
        faults = collectives.from_rank_0(faults)
    finally:
        parallel.end()
    if faults:
        if ranks.rank == 0:
            write_bad_nodes(launch / BAD_NODES, to_exclude(faults, len({report.host for report in reports})))
        raise HarnessError("the nodes are not fit to train:\n" + "\n".join(f"  {fault.text}" for fault in faults))
    return reports


def _meet(launch: Path, ranks: ProcessRanks) -> TCPStore:
    """Return the store at which all ranks meet. Rank 0 waits for all of them, and names the missing ones.

    Raises:
        HarnessError: Some ranks did not come (on rank 0), or rank 0 cannot be reached (on the others).
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
    timeout = timedelta(seconds=patience_s(ANSWER_WITHIN_S, ranks.world_size))
    try:
        if ranks.rank == 0:
            store = serve(address, port, timeout, num_ranks=ranks.world_size)
        else:
            store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise HarnessError(
            f"{socket.gethostname()} (rank {ranks.rank}) cannot reach rank 0 at {address}:{port}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    tell_presence(store, ranks.rank, socket.gethostname())
    if ranks.rank == 0:
        _wait_for_all(launch, store, ranks)
    return store


def _wait_for_all(launch: Path, store: TCPStore, ranks: ProcessRanks) -> None:
    within_s = patience_s(ANSWER_WITHIN_S, ranks.world_size)
    deadline = time.monotonic() + within_s
    while not are_here(store, ranks.world_size):
        if time.monotonic() >= deadline:
            missing = missing_of(store, range(ranks.world_size))
            silent = _nodes_of(launch, missing, ranks.local_world_size)
            text = f"did not answer within {within_s:g} s"
            faults = [Fault(host=node, text=f"{node} {text}") for node in silent]
            write_bad_nodes(launch / BAD_NODES, to_exclude(faults, ranks.world_size // ranks.local_world_size))
            named = ", ".join(map(str, missing[:16])) + (" …" if len(missing) > 16 else "")
            where = f" on {', '.join(silent[:16])}" if silent else ""
            raise HarnessError(
                f"{len(missing)} of {ranks.world_size} ranks {text}: rank {named}{where}; look at node_*.log there"
            )
        time.sleep(0.2)


def _nodes_of(launch: Path, ranks: Sequence[int], ranks_per_node: int) -> list[str]:
    """Return the nodes of these ranks, as the batch script listed them; empty without such a list."""
    try:
        nodes = (launch / "nodes.txt").read_text().split()
    except OSError:
        return []
    return list(dict.fromkeys(nodes[rank // ranks_per_node] for rank in ranks if rank // ranks_per_node < len(nodes)))


def _report(
    ranks: ProcessRanks,
    where: torch.device,
    times: dict[str, float],
    exchanged: dict[str, float],
    *,
    sees_file: bool,
) -> RankReport:
    num_bytes = _num_bytes(where)
    sizes = {kind: group.size() for kind, group in parallel.groups_by_kind().items()}
    collectives.barrier()
    return RankReport(
        rank=ranks.rank,
        host=node_name(),
        device=device.name(where),
        memory_gib=device.memory_gib(where),
        versions={"harness": VERSION}
        | {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version(), "cuda": device.cuda_version(where)},
        driver=device.driver_version(where),
        clock_s=time.time(),
        sees_file=sees_file,
        compute_ms=round(device.compute_ms(where), 3),
        all_reduce_ms={kind: round(taken, 3) for kind, taken in times.items()},
        gib_per_s={
            kind: round(2 * (sizes[kind] - 1) / sizes[kind] * num_bytes / 2**30 / (taken / 1e3), 3)
            for kind, taken in times.items()
        },
        exchange_ms=exchanged,
    )


def _all_reduce_ms(group: dist.ProcessGroup, where: torch.device) -> float:
    """Return the median time of an all-reduce over the group, after one that opens its connections."""
    return _median_ms(lambda tensor: collectives.sum_over(tensor, group), where, lambda: collectives.barrier(group))


def _exchange_ms(ranks: ProcessRanks, where: torch.device) -> dict[str, float]:
    """Measure the exchange of this node's first rank with that of each neighbour. Every rank must call it."""
    size = ranks.local_world_size
    node = ranks.rank // size
    names = collectives.from_rank_0(collectives.gathered_at_rank_0(node_name())[::size])
    found = {}
    for pairs in exchange_rounds(len(names)):
        for pair in pairs:
            if ranks.local_rank == 0 and node in pair:
                other = pair[1] if node == pair[0] else pair[0]
                exchange = partial(collectives.to_and_fro, peer=other * size, is_first=node == pair[0])
                found[names[other]] = round(_median_ms(exchange, where, lambda: None), 3)
        collectives.barrier()
    return found


def _median_ms(
    communicate: Callable[[torch.Tensor], object], where: torch.device, wait_for_others: Callable[[], object]
) -> float:
    """Return the median time of sending a tensor, after one round that opens the connections."""
    tensor = torch.zeros(_num_bytes(where) // 4, device=where)
    times = []
    for _ in range(_ROUNDS + 1):
        wait_for_others()
        device.synchronize(where)
        started = time.perf_counter()
        communicate(tensor)
        device.synchronize(where)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def _sees_file(launch: Path, ranks: ProcessRanks) -> bool:
    """Return whether this node can read a file that rank 0 writes now; its first rank looks."""
    nonce = collectives.from_rank_0(secrets.token_hex(8))
    path = launch / f"seen_{nonce}"
    if ranks.rank == 0:
        path.write_text(nonce)
    collectives.barrier()
    deadline = time.monotonic() + FILES_APPEAR_WITHIN_S
    seen = ranks.local_rank > 0
    while not (seen := seen or (path.is_file() and path.read_text() == nonce)) and time.monotonic() < deadline:
        time.sleep(0.5)
    collectives.barrier()
    if ranks.rank == 0:
        path.unlink()
    return seen


def _publish(launch: Path, reports: Sequence[RankReport], say: Callable[[str], object]) -> None:
    replace_file(launch / NODES, json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    first = reports[0]
    hosts = len({report.host for report in reports})
    memory = "" if first.memory_gib is None else f" ({first.memory_gib:.0f} GiB)"
    say(f"nodes: {len(reports)} ranks on {hosts} hosts, {first.device}{memory}; {versions_text(first.versions)}")
    for kind in first.all_reduce_ms:
        taken = [report.all_reduce_ms[kind] for report in reports if kind in report.all_reduce_ms]
        speed = [report.gib_per_s[kind] for report in reports if kind in report.gib_per_s]
        say(f"  {kind}: all-reduce {min(taken):.1f} to {max(taken):.1f} ms, {min(speed):.2f} to {max(speed):.2f} GiB/s")
    for fault in other_drivers(reports) + slow_nodes(reports) + slow_groups(reports):
        say(f"warning: {fault.text}")


def _num_bytes(where: torch.device) -> int:
    return _BYTES_ON_GPU if where.type == "cuda" else _BYTES_ON_CPU


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main(arguments: Sequence[str]) -> int:
    """Check the nodes as one rank, and return the exit code."""
    parser = argparse.ArgumentParser(description="One rank of the check of all nodes before training.")
    parser.add_argument("--launch", type=Path, required=True)
    given = parser.parse_args(arguments)
    label_lines(log_label())
    try:
        ranks = read_ranks()
        if ranks is None:
            raise UsageError("this process has no rank; the batch script starts it on every node")
        check(given.launch, ranks, say)
    except HarnessError as error:
        complain(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
