"""The meeting of all ranks: what rank 0 asks, and how many it can serve."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from harness.errors import HarnessError
from harness.launch.machine import free_port
from harness.parallel import meeting, open_files


class CountingStore:
    """The store of rank 0, which counts what it is asked."""

    def __init__(self, num_here: int) -> None:
        self.asked: Counter[str] = Counter()
        self._store = HashStore()
        self._store.add("num_here", num_here)

    def __getattr__(self, name: str) -> object:
        self.asked[name] += 1
        return getattr(self._store, name)


def questions_of_rank_0(world_size: int) -> Counter[str]:
    store = CountingStore(world_size - 1)
    waiting = meeting._Waiting(lambda: False, 10.0, 10.0, 0.01)
    meeting._gather(store, world_size, waiting)  # type: ignore[arg-type]
    return store.asked


def test_rank_0_asks_no_more_for_more_ranks() -> None:
    assert questions_of_rank_0(4096) == questions_of_rank_0(64)


@pytest.mark.parametrize(("world_size", "least_s"), [(1, 0.1), (250, 0.1), (16384, 6.0)])
def test_the_looks_of_all_ranks_are_bounded(world_size: int, least_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def remember(is_told_to_stop: object, within_s: float, stop_after_s: float, pause_s: float) -> object:
        seen.append(pause_s)
        raise HarnessError("seen")

    monkeypatch.setattr(meeting, "_Waiting", remember)
    with pytest.raises(HarnessError, match="seen"):
        meeting.meet(1, max(2, world_size), environ={})
    assert seen[0] >= least_s
    assert world_size / seen[0] <= meeting._MOST_LOOKS_PER_S


def test_large_jobs_are_waited_for_longer() -> None:
    patience = [meeting.patience_s(120.0, world_size) for world_size in (2, 64, 1024, 4096, 16384)]
    assert patience[:2] == [120.0, 120.0]
    estimated_s = {1024: 70, 4096: 280, 16384: 19 * 60}
    assert all(given > needed for given, needed in zip(patience[2:], estimated_s.values(), strict=True))


CLIENTS = """
import sys
from datetime import timedelta
from torch.distributed import TCPStore
from harness.parallel.open_files import raise_limit
raise_limit()
port, first, behind = map(int, sys.argv[1:])
stores = [
    TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
    for _ in range(first, behind)
]
for rank, store in zip(range(first, behind), stores):
    store.set(f"here/{rank}", "")
    store.add("num_here", 1)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_store_serves_more_connections_than_a_process_may_open_at_first() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100 + open_files.OTHERS:
        pytest.skip(f"this machine allows {hard} open files")
    port = free_port()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        store = meeting.serve("127.0.0.1", port, timedelta(seconds=60), num_ranks=1100)
        command = [sys.executable, "-c", CLIENTS, str(port), "0", "1100"]
        # torch looks up the name behind every connection, and a name server may not answer so many questions
        environment = {**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as clients:
            assert clients.stdout is not None
            assert clients.stdout.readline() == "ready\n"
            assert meeting.are_here(store, 1100)
            assert meeting.missing_of(store, range(1101)) == [1100]
            clients.communicate("")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_connections_are_an_error_before_anybody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(HarnessError) as error:
        meeting.serve("127.0.0.1", free_port(), timedelta(seconds=1), num_ranks=16384)
    assert "rank 0 serves 16,384 ranks and needs 17,408 open files, but " in str(error.value)
    assert "allows a process 4,096: raise that limit on the nodes" in str(error.value)
