"""The meeting of all ranks at the start: each comes to the store of rank 0, which waits for all and lets them begin.

torch's own rendezvous waits in C++ for half an hour and hears no signal meanwhile. This one looks every tenth of a
second, ends when a rank was told to stop and the others do not come, and names those that are missing. Where all ranks
are on one machine its store listens there only.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # torch lists none

from harness.errors import HarnessError, StoppedAtStartError
from harness.parallel.open_files import require_room_for
from harness.text import listed

MEET_WITHIN_S = 900.0
"""Time for all ranks to come. Loading Python's packages takes hundreds of nodes minutes from a slow file system."""
_MORE_FOR_A_RANK_S = 0.1
_FEW_RANKS = 64
STOP_AFTER_S = 10.0
"""Time that a rank which was told to stop still waits for the others: together they leave in good order."""
_LOOK_EVERY_S = 0.1
_MOST_LOOKS_PER_S = 2500
"""Looks of all ranks together: each is a question to rank 0."""
_CONNECT_WITHIN_S = 2.0
_ANSWER_WITHIN_S = 60.0
"""Time for an answer of the store, which is a process that is there."""
_READ_WITHIN_S = 5.0
"""Time for the other ranks to read that they leave, before the store ends with rank 0."""
_GO, _LEAVE = "go", "leave"
_NUM_HERE = "num_here"


def meet(
    rank: int,
    world_size: int,
    *,
    is_told_to_stop: Callable[[], bool] = lambda: False,
    within_s: float | None = None,
    stop_after_s: float = STOP_AFTER_S,
    environ: Mapping[str, str] = os.environ,
) -> Store:
    """Return the store by which the ranks reach each other, when all are there. Every rank must call it.

    Rank 0 serves it at MASTER_ADDR and MASTER_PORT, unless torchrun does. Default of `within_s`: `MEET_WITHIN_S`, and
    more for many ranks.

    Raises:
        HarnessError: Ranks did not come in time, or rank 0 may not have as many connections.
        StoppedAtStartError: A rank was told to stop, and the others did not come.
    """
    if world_size == 1:
        return HashStore()
    within_s = patience_s(MEET_WITHIN_S, world_size) if within_s is None else within_s
    waiting = _Waiting(
        is_told_to_stop, within_s, stop_after_s, pause_s=max(_LOOK_EVERY_S, world_size / _MOST_LOOKS_PER_S)
    )
    address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    if rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        store: TCPStore = serve(address, port, timedelta(seconds=_ANSWER_WITHIN_S), num_ranks=world_size)
    else:
        store = _reach(address, port, waiting)
    launch = environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store for the next start
    shared = PrefixStore(f"harness/{launch}", store)
    with _naming_a_lost_store(address, port):
        if rank == 0:
            _gather(shared, world_size, waiting)
        else:
            _attend(shared, rank, waiting)
    return shared


def patience_s(base_s: float, world_size: int) -> float:
    """Return the time for all ranks to come: the more there are, the longer a shared disk takes to give them packages.

    An environment on a shared disk was estimated to take 16,384 ranks 19 minutes.
    """
    return base_s + _MORE_FOR_A_RANK_S * max(0, world_size - _FEW_RANKS)


def tell_presence(store: Store, rank: int, what: str = "") -> None:
    """Tell rank 0 that a rank is here."""
    store.set(f"here/{rank}", what)
    store.add(_NUM_HERE, 1)


def are_here(store: Store, num_ranks: int) -> bool:
    """Return whether `num_ranks` ranks have come (`tell_presence`). Asks the store once, whatever the number."""
    return store.add(_NUM_HERE, 0) >= num_ranks


def missing_of(store: Store, ranks: Iterable[int]) -> list[int]:
    """Return those that have not told. It asks for each: when it is too late."""
    return [rank for rank in ranks if not store.check([f"here/{rank}"])]


def serve(address: str, port: int, timeout: timedelta, *, num_ranks: int) -> TCPStore:
    """Return a store that listens at a port: on this machine only, if the address is of its loopback device.

    Raises:
        HarnessError: The port is taken, or this process may not have a connection for each rank.
    """
    require_room_for(num_ranks)
    try:
        if not is_loopback(address):
            return TCPStore(address, port, is_master=True, wait_for_workers=False, timeout=timeout)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(socket.SOMAXCONN)
            store = TCPStore(
                address,
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=timeout,
                master_listen_fd=listener.fileno(),
            )
            listener.detach()  # the store closes it
            return store
    except (OSError, RuntimeError) as error:
        raise HarnessError(
            f"rank 0 cannot listen at {address}:{port}: {str(error).partition(chr(10))[0]}; if another program took "
            "the port, start again, or set MASTER_PORT to a free one"
        ) from None


def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine's loopback device."""
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return address == "localhost"


class _Waiting:
    """A wait that ends: after its time, and some seconds after this rank was told to stop."""

    def __init__(
        self, is_told_to_stop: Callable[[], bool], within_s: float, stop_after_s: float, pause_s: float
    ) -> None:
        self._pause_s = pause_s
        self._is_told_to_stop = is_told_to_stop
        self.within_s = within_s
        self._deadline = time.monotonic() + within_s
        self._stop_after_s = stop_after_s
        self._stop_at: float | None = None

    @property
    def is_over(self) -> bool:
        """True when the time is over."""
        return time.monotonic() >= self._deadline

    @property
    def is_to_stop(self) -> bool:
        """True when this rank was told to stop, and has waited for the others."""
        if self._stop_at is None and self._is_told_to_stop():
            self._stop_at = time.monotonic() + self._stop_after_s
        return self._stop_at is not None and time.monotonic() >= self._stop_at

    @property
    def is_to_give_up(self) -> bool:
        """True when rank 0 has not answered either since then."""
        return self.is_to_stop and time.monotonic() >= (self._stop_at or 0.0) + self._stop_after_s

    def pause(self) -> None:
        """Wait until the next look."""
        time.sleep(self._pause_s)


def _reach(address: str, port: int, waiting: _Waiting) -> TCPStore:
    """Return the store of rank 0, when it listens."""
    problem = "nobody listens there"
    while True:
        # torch would log every attempt, and wait in C++.
        try:
            with socket.create_connection((address, port), timeout=_CONNECT_WITHIN_S):
                pass
            return TCPStore(
                address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_ANSWER_WITHIN_S)
            )
        except (OSError, RuntimeError) as error:
            problem = str(error).partition("\n")[0]
        if waiting.is_to_stop:
            raise StoppedAtStartError(f"told to stop, and rank 0 at {address}:{port} had not come ({problem})")
        if waiting.is_over:
            raise HarnessError(
                f"rank 0 did not come within {waiting.within_s:g} s: {socket.gethostname()} cannot reach "
                f"{address}:{port} ({problem}); look at its log, and at MASTER_ADDR and MASTER_PORT"
            )
        waiting.pause()


def _gather(store: Store, world_size: int, waiting: _Waiting) -> None:
    """Wait as rank 0 for all others, and let all begin, or leave."""
    while not are_here(store, world_size - 1):
        if waiting.is_to_stop or store.check([_LEAVE]):
            missing = missing_of(store, range(1, world_size))
            why = f"told to stop, and rank {listed(missing)} had not come"
            _dismiss(store, world_size - 1 - len(missing), why)
        if waiting.is_over:
            missing = missing_of(store, range(1, world_size))
            _dismiss(store, world_size - 1 - len(missing), "")
            raise HarnessError(
                f"{len(missing)} of {world_size} ranks did not come within {waiting.within_s:g} s: rank "
                f"{listed(missing)}; look at node_*.log in the launch's folder"
            )
        waiting.pause()
    store.set("verdict", _GO)


def _dismiss(store: Store, num_here: int, why: str) -> None:
    """Let the ranks that are here leave.

    Raises:
        StoppedAtStartError: If there is a reason that is no failure.
    """
    store.set("verdict", why or "late")
    deadline = time.monotonic() + _READ_WITHIN_S
    while store.add("read", 0) < num_here and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    if why:
        raise StoppedAtStartError(why)


def _attend(store: Store, rank: int, waiting: _Waiting) -> None:
    """Tell rank 0 that this rank is here, and wait for what it says."""
    tell_presence(store, rank)
    asked = False
    while not store.check(["verdict"]):
        if waiting.is_to_stop and not asked:
            store.set(_LEAVE, "")
            asked = True
        if waiting.is_to_give_up:
            raise StoppedAtStartError("told to stop, and rank 0 did not answer")
        if waiting.is_over:
            raise HarnessError(f"rank 0 did not let the ranks begin within {waiting.within_s:g} s; look at its log")
        waiting.pause()
    verdict = store.get("verdict").decode()
    if verdict == _GO:
        return
    store.add("read", 1)
    if verdict == "late":
        raise HarnessError("other ranks did not come in time; rank 0 names them")
    raise StoppedAtStartError(verdict)


@contextmanager
def _naming_a_lost_store(address: str, port: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise HarnessError(
            f"the connection to rank 0 at {address}:{port} was lost while the ranks met: "
            f"{str(error).partition(chr(10))[0]}"
        ) from None
