"""Dumps of torch's flight recorder: real ones of two ranks of which one does not come, and files that are none."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.launch.collectives_dump import GroupState, absent_ranks, read_dumps
from harness.launch.machine import free_port

HANGS = """
import os, sys, threading, time
from pathlib import Path
import torch, torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace
dist.init_process_group("gloo")
tensor = torch.ones(4)
dist.all_reduce(tensor)
rank, folder = dist.get_rank(), Path(sys.argv[1])
if rank == 0:  # waits for a rank that does not come
    threading.Thread(target=lambda: dist.all_reduce(tensor), daemon=True).start()
    time.sleep(0.5)
(folder / f"rank_{rank}").write_bytes(_dump_fr_trace())
while len(list(folder.glob("rank_*"))) < 2:
    time.sleep(0.05)
os._exit(0)
"""


@pytest.mark.slow
def test_the_rank_that_has_not_come_is_named_by_real_dumps(tmp_path: Path) -> None:
    port = str(free_port())
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"TORCH_FR_BUFFER_SIZE": "100", "GLOO_SOCKET_IFNAME": "lo"}
    command = (sys.executable, "-W", "ignore", "-c", HANGS, str(tmp_path))
    ranks = [subprocess.Popen(command, env=common | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    dumps = read_dumps(tmp_path)
    assert sorted(dumps) == [0, 1]
    assert absent_ranks(dumps) == [
        "rank 0 waits in gloo:all_reduce number 2 of group 0 (default_pg); rank 1 has not come"
    ]


def state(sequence: int, *, is_done: bool = False, members: tuple[int, ...] = (0, 1, 2, 3)) -> GroupState:
    return GroupState(
        description="1 (data)", members=members, collective="nccl:all_reduce", sequence=sequence, is_done=is_done
    )


def test_ranks_that_are_level_are_not_told() -> None:
    assert absent_ranks({rank: {"1": state(7)} for rank in range(4)}) == []
    assert absent_ranks({}) == []


def test_a_rank_without_a_dump_is_told_only_where_others_wait() -> None:
    waiting = {rank: {"1": state(7)} for rank in range(3)}
    assert absent_ranks(waiting) == [
        "rank 0, 1, 2 waits in nccl:all_reduce number 7 of group 1 (data); there is no dump of rank 3"
    ]
    assert absent_ranks({rank: {"1": state(7, is_done=True)} for rank in range(3)}) == []


def test_who_is_behind_and_who_is_silent_are_told_apart() -> None:
    dumps = {0: {"1": state(7)}, 1: {"1": state(6, is_done=True)}, 2: {"1": state(7)}}
    assert absent_ranks(dumps) == [
        "rank 0, 2 waits in nccl:all_reduce number 7 of group 1 (data); rank 1 has not come, there is no dump of rank 3"
    ]


def test_many_ranks_are_not_all_named() -> None:
    members = tuple(range(20))
    dumps = {rank: {"1": state(7 if rank else 6, members=members)} for rank in members}
    (line,) = absent_ranks(dumps)
    assert line.startswith("rank 1, 2, 3, 4, 5, 6, 7, 8 and 11 more waits in ")


def test_point_to_point_operations_do_not_count(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"process_group": ("2", "pipe"), "profiling_name": "nccl:send 0->1", "is_p2p": True}
    dump = {
        "pg_config": {"2": {"name": "2", "desc": "pipe", "ranks": "[0, 1]"}},
        "entries": [{**entry, "collective_seq_id": 9}],
    }
    (tmp_path / "rank_0").write_bytes(pickle.dumps(dump))
    assert read_dumps(tmp_path)[0]["2"].sequence == 0


class Runs:
    """What would run a command, if it were unpickled as usual."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_a_file_that_names_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rank_0").write_bytes(pickle.dumps(Runs()))
    (tmp_path / "rank_1").write_bytes(b"no pickle")
    (tmp_path / "rank_2").write_bytes(pickle.dumps({"entries": []}))
    (tmp_path / "rank_3.tmp").write_bytes(b"")
    assert read_dumps(tmp_path) == {}
    assert not (tmp_path / "harmed").exists()
