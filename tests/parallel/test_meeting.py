"""The meeting of ranks at the start: it ends, hears signals, names who is missing, and listens where it should."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import Store

from harness.errors import EXIT_REQUEUE, HarnessError, StoppedAtStartError
from harness.launch.machine import free_port
from harness.parallel.meeting import is_loopback, meet, serve

Met = Future[Store]


@pytest.fixture
def together() -> Callable[..., Met]:
    """Calls `meet` in a thread, as a rank of a world on this machine."""
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pool = ThreadPoolExecutor(4)

    def come(rank: int, world_size: int = 2, **options: object) -> Met:
        return pool.submit(meet, rank, world_size, environ=environ, **options)  # type: ignore[arg-type]

    return come


def test_ranks_that_all_come_share_a_store(together: Callable[..., Met]) -> None:
    stores = [met.result(timeout=30) for met in [together(1, 3), together(0, 3), together(2, 3)]]
    stores[1].set("key", "value")
    assert [store.get("key") for store in stores] == [b"value"] * 3


def test_one_rank_alone_listens_nowhere() -> None:
    store = meet(0, 1, environ={})
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_ranks_that_do_not_come_are_named(together: Callable[..., Met]) -> None:
    waiting = [together(rank, 4, within_s=1.0) for rank in (0, 2)]
    with pytest.raises(HarnessError, match=r"^2 of 4 ranks did not come within 1 s: rank 1, 3; look at node_"):
        waiting[0].result(timeout=30)
    with pytest.raises(HarnessError, match="other ranks did not come in time|rank 0 did not let|was lost while"):
        waiting[1].result(timeout=30)


def test_without_rank_0_nobody_waits_for_ever(together: Callable[..., Met]) -> None:
    with pytest.raises(HarnessError, match=r"^rank 0 did not come within 1 s: .* cannot reach 127.0.0.1:[0-9]+ \("):
        together(1, within_s=1.0).result(timeout=30)


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_is_told_to_stop_takes_along_those_who_are_there(who: int, together: Callable[..., Met]) -> None:
    told = threading.Event()
    waiting = [
        together(rank, 3, stop_after_s=0.3, is_told_to_stop=told.is_set if rank == who else lambda: False)
        for rank in (0, 1)
    ]
    told.set()
    for met in waiting:
        with pytest.raises(StoppedAtStartError, match="told to stop, and rank 2 had not come") as caught:
            met.result(timeout=30)
        assert caught.value.exit_code == EXIT_REQUEUE


def test_a_rank_that_is_told_to_stop_waits_for_those_who_are_on_their_way(together: Callable[..., Met]) -> None:
    waiting = together(0, stop_after_s=20, is_told_to_stop=lambda: True)
    together(1).result(timeout=30)
    waiting.result(timeout=30)


def test_told_to_stop_before_rank_0_is_there(together: Callable[..., Met]) -> None:
    with pytest.raises(StoppedAtStartError, match="told to stop, and rank 0 at .* had not come"):
        together(1, stop_after_s=0.2, is_told_to_stop=lambda: True).result(timeout=30)


def test_a_port_that_is_taken_is_one_clear_error(together: Callable[..., Met]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HarnessError, match=rf"^rank 0 cannot listen at 127.0.0.1:{port}: .*MASTER_PORT to a free"):
            serve("127.0.0.1", port, timedelta(seconds=5), num_ranks=2)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("n1", False)],
)
def test_addresses_of_the_loopback_device(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected
