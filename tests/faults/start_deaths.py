"""Deaths of the launcher and of ranks while a launch of two ranks starts, at each stage of the start.

At the stage one rank is stopped (SIGSTOP), so that the other comes to wait for it, wherever it may; then the victims
are killed. What must hold: whoever is left ends by itself within seconds, nobody holds the run, and the next start
succeeds.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from disturbed_runs import wait_for
from process_runs import Command, Site, descendants, kill_all, signal_all

from harness.run.lock import owner_of

GONE_WITHIN_S = 30.0
"""Time for those who are left: a launcher gives ranks five seconds after a failure; the rest is a busy machine."""


def _listens(pid: int) -> bool:
    """Whether a process has a socket that listens."""
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return any(connection.status == psutil.CONN_LISTEN for connection in connections)


@dataclass(frozen=True)
class Start:
    """A start of a site, and what its files were before it."""

    site: Site
    command: Command
    num_opened: int
    began: float

    @staticmethod
    def of(site: Site, *, cold: bool = False) -> Start:
        began, num_opened = time.time(), _num_opened(site)
        return Start(site, site.train(cold=cold), num_opened, began)

    def has_workers(self) -> bool:
        return len(self.command.workers()) == 2

    def rank_listens(self, rank: int) -> bool:
        with suppress(OSError, KeyError, psutil.Error):
            return _listens(self.command.workers()[rank])
        return False

    def has_opened_data(self) -> bool:
        plan = self.site.run_dir.plan
        return plan.exists() and plan.stat().st_mtime >= self.began

    def has_loaded(self) -> bool:
        return _num_opened(self.site) > self.num_opened


def _num_opened(site: Site) -> int:
    return len(site.events("started")) + len(site.events("resumed"))


STAGES: Mapping[str, Callable[[Start], bool]] = {
    "import": Start.has_workers,
    "rendezvous": lambda start: start.rank_listens(0),  # it serves the store
    "groups": lambda start: start.rank_listens(1),  # for its neighbours
    "data opened, loading": Start.has_opened_data,
    "first step": Start.has_loaded,
}
VICTIMS: Mapping[str, Sequence[str]] = {
    "the launcher": ("launcher",),
    "a rank": ("rank 1",),
    "the launcher and a rank": ("launcher", "rank 1"),
}


def kill_at(start: Start, stage: str, victims: Sequence[str], wait_s: float = 1.0) -> list[int] | None:
    """Kills the victims at a stage of a start and returns all its processes; None if the start was over before."""
    command = start.command
    wait_for(command, lambda: STAGES[stage](start))
    workers = command.workers()
    if command.process.poll() is not None or len(workers) != 2:
        return None
    signal_all([workers[1]], signal.SIGSTOP)
    time.sleep(wait_s)  # the other rank comes to where it waits for this one
    known = [command.process.pid, *descendants(command.process.pid)]
    pids = {"launcher": command.process.pid, "rank 0": workers[0], "rank 1": workers[1]}
    kill_all([pids[victim] for victim in victims])
    return known


def left_over(command: Command, known: Sequence[int], within_s: float = GONE_WITHIN_S) -> list[int]:
    """Processes of a command that are still there after some time."""
    deadline = time.monotonic() + within_s
    while (alive := [pid for pid in known if _is_alive(pid)]) and time.monotonic() < deadline:
        command.process.poll()
        time.sleep(0.05)
    return alive


def is_free(site: Site, within_s: float = GONE_WITHIN_S) -> bool:
    """Whether nobody holds the run. The threads of one that is dead already may take a moment to let its files go."""
    deadline = time.monotonic() + within_s
    while owner_of(site.run_dir) is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
