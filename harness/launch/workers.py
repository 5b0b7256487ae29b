"""Starts the workers of a run on this machine, forwards signals to them, and ends all of them when one fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EXIT_INTERNAL, EXIT_STOPPED_BY_PERSON
from harness.launch.exits import EXPLAINED_EXITS, WorkerExit, root_failure
from harness.launch.held_signals import next_signal
from harness.launch.node_log import last_lines
from harness.parent_death import follow_parent
from harness.run.files import open_to_append
from harness.run.launches import Failure
from harness.say import say

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_BLOCKED = (*FORWARDED, signal.SIGHUP, signal.SIGCHLD)
_LOOK_EVERY_S = 1.0
_MOST_OF_A_LINE = 500
_ASK_EVERY_S = 5.0
"""Time between two looks for a request to kill. The request is on a file system that all nodes of the job read."""
ALL_HAVE_ASKED_S = 2 * _ASK_EVERY_S
"""Time after which every launcher has looked once, and has collected its information."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Time limits for workers to leave."""

    after_failure_s: float = 5.0
    """After another one failed. They wait for it in a collective and can only write down their state."""
    after_finish_s: float = 600.0
    """After another one left by agreement."""


@dataclass(frozen=True, kw_only=True)
class WorkerStart:
    """The command, environment and log of one worker."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    """File to append its output to, which workers may share; None for the terminal."""
    pass_descriptors: Sequence[int] = ()
    """Open files that it inherits, such as the run's lock."""


@dataclass(frozen=True, kw_only=True)
class KillSwitch:
    """Examines workers that no longer react to commands, and kills them, on requests from outside."""

    reason: Callable[[], str | None]
    """Returns the reason to kill them, or None."""
    asked: Callable[[], float | None]
    """Returns the time of the last request for the state of the workers, or None."""
    collect: Callable[[Mapping[int, int]], None]
    """Collects information from the workers, given the process id of every rank."""
    others_learn_s: float = 0.0
    """Time for launchers of other nodes to collect information from their workers, which end when these are killed."""


def run_workers(
    starts: Sequence[WorkerStart],
    *,
    patience: Patience | None = None,
    kill_switch: KillSwitch | None = None,
    beside: AbstractContextManager[None] | None = None,
    show: Callable[[str], None] | None = None,
    note: Callable[[Failure], None] | None = None,
) -> int:
    """Run workers, one per rank in order of rank, until all have ended; return the exit code of all together.

    SIGTERM, SIGUSR1, SIGUSR2 and SIGINT are forwarded to every worker, SIGHUP (a closed terminal) as SIGTERM. A second
    SIGINT kills them. Signals stay blocked in a worker until it unblocks them (`SignalFlags.install`), so that none is
    lost or deadly while it starts. If this process dies, its workers die too, or, once they train, get SIGTERM. Call it
    from the main thread.

    `beside` is entered once all were
    started, and left when all have ended: it may start threads. `show` shows a line to people, by default
    on standard error. `note` takes the failure that caused the others, if there was one.

    Returns:
        The code of the failure that caused the others (`root_failure`); that of the lowest rank if none failed.
    """
    with _blocking_signals() as watched, ExitStack() as logs:
        workers = Workers(watched, patience or Patience(), show or write_to_stderr, kill_switch)
        try:
            for start in starts:
                workers.start(start, logs)
            with beside or nullcontext():
                code = workers.watch()
            if note is not None and (failure := workers.failure()) is not None:
                note(failure)
            return code
        finally:
            workers.kill()


class Workers:
    """The workers of one launch."""

    def __init__(
        self,
        watched: Sequence[signal.Signals],
        patience: Patience,
        show: Callable[[str], None],
        kill_switch: KillSwitch | None = None,
    ) -> None:
        self._watched = watched
        self._patience = patience
        self._show = show
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[int, Path | None] = {}
        self._ends: dict[int, WorkerExit] = {}
        """Ends of the workers that ended by themselves."""
        self._failing = False
        self._gave_up = False
        self._reported = False
        self._interrupted = False
        self._killed_by_person = False
        self._kill_at: float | None = None
        self._kill_switch = kill_switch
        self._ask_at = 0.0
        self._answered: float | None = None
        self._spared_until: float | None = None
        self._told: Failure | None = None
        """The failure that was reported."""

    def start(self, start: WorkerStart, logs: ExitStack) -> None:
        """Start a worker. Its rank is RANK in its environment, or the number of workers before it."""
        rank = int(start.environment.get("RANK", len(self._logs)))
        output = None if start.log is None else open_to_append(start.log)
        if output is not None:
            logs.callback(os.close, output)
        launcher = os.getpid()
        self._running[rank] = subprocess.Popen(
            start.command,
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=start.pass_descriptors,
            process_group=0,  # a terminal's Ctrl-C goes to this process only, which passes it on
            preexec_fn=lambda: _prepare_worker(launcher),
        )
        self._logs[rank] = start.log

    def watch(self) -> int:
        """Wait until all workers have ended, and return the exit code."""
        while self._running:
            self._pass_on(next_signal(self._watched, self._wait_s()))
            self._note_ends()
            self._ask()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._give_up()
        self._report()
        return self._exit_code()

    def kill(self) -> None:
        """Kill the workers that still run, and wait until they are gone."""
        for worker in self._running.values():
            worker.kill()
        for worker in self._running.values():
            worker.wait()
        self._running.clear()

    def _wait_s(self) -> float:
        if self._kill_at is None:
            return _LOOK_EVERY_S
        return min(_LOOK_EVERY_S, max(0.0, self._kill_at - time.monotonic()))

    def _pass_on(self, received: int | None) -> None:
        if received is None or received == signal.SIGCHLD:
            return
        if received == signal.SIGINT:
            if self._interrupted:
                self._show("interrupted again: all workers are killed, what was not saved is lost")
                self._killed_by_person = True
                self._send(signal.SIGKILL)
                return
            self._interrupted = True
            self._show("interrupted: saving and stopping at the end of the step; interrupt again to kill")
        self._send(signal.SIGTERM if received == signal.SIGHUP else received)

    def _send(self, number: int) -> None:
        for worker in self._running.values():
            worker.send_signal(number)

    def _note_ends(self) -> None:
        """Record the workers that ended, and set the others a time limit."""
        ended = [
            WorkerExit(rank=rank, return_code=code, time=time.time())
            for rank, worker in self._running.items()
            if (code := worker.poll()) is not None
        ]
        for end in ended:
            del self._running[end.rank]
            if not self._is_our_doing(end):
                self._ends[end.rank] = end
        if not self._failing and any(end.failed for end in ended):
            self._failing = True
            self._send(signal.SIGTERM)
            self._kill_at = time.monotonic() + self._patience.after_failure_s
        elif ended and self._kill_at is None and not self._gave_up:
            self._kill_at = time.monotonic() + self._patience.after_finish_s

    def _ask(self) -> None:
        """Collect information from the workers if it was requested, and kill them all if that was requested."""
        if self._kill_switch is None or self._gave_up or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + _ASK_EVERY_S
        reason, asked = self._kill_switch.reason(), self._kill_switch.asked()
        is_new = reason is not None and self._spared_until is None
        if self._running and (is_new or asked not in (None, self._answered)):
            self._answered = asked
            self._kill_switch.collect({rank: worker.pid for rank, worker in self._running.items()})
        if reason is None or not self._running:
            return
        if self._spared_until is None:
            self._spared_until = time.monotonic() + self._kill_switch.others_learn_s
        if time.monotonic() < self._spared_until:
            return
        self._kill_running(f": {reason}", is_failure=True)

    def _is_our_doing(self, end: WorkerExit) -> bool:
        """Return whether a worker ended by a signal that it was sent because others had failed."""
        return self._gave_up or (self._failing and end.return_code == -signal.SIGTERM)

    def _give_up(self) -> None:
        """Kill the workers that still run after their time limit. This is the failure if there was no other one."""
        self._report()
        failure = self._failure()
        when = f"after {failure}" if failure else f"{self._patience.after_finish_s:g} s after others had left"
        self._kill_running(f", still running {when}", is_failure=failure is None)
        self._kill_at = None

    def _kill_running(self, cause: str, *, is_failure: bool) -> None:
        """Kill the workers that still run. A failure counts as one of the lowest rank: which one failed is unknown."""
        told = f"killed: rank {', '.join(map(str, self._running))}{cause}"
        self._show(told)
        if is_failure:
            first = min(self._running)
            self._ends[first] = WorkerExit(rank=first, return_code=EXIT_INTERNAL, time=time.time(), told=told)
            self._reported = True
        self._gave_up = True
        self._send(signal.SIGKILL)

    def _failure(self) -> WorkerExit | None:
        return None if self._killed_by_person else root_failure(list(self._ends.values()))

    def failure(self) -> Failure | None:
        """Return the failure that caused the others, with the end of its rank's output; None if there was none."""
        end = self._failure()
        if end is None:
            return None
        if self._told is not None and self._told.text == str(end):  # its log has our own words by now
            return self._told
        log = self._logs[end.rank]
        lines: list[str] = []
        with suppress(OSError):
            lines = [] if log is None else last_lines(log, end.rank)
        return Failure(
            rank=end.rank,
            host=socket.gethostname(),
            text=str(end),
            return_code=end.return_code,
            time=round(end.time, 3),
            log=None if log is None else str(log),
            last_lines=tuple(line[:_MOST_OF_A_LINE] for line in lines),
        )

    def _report(self) -> None:
        """Report the failure once, when all workers that could say more about it have ended or had their time."""
        end = self._failure()
        if end is None or self._reported:
            return
        failure = self._told = self.failure()
        if failure is None or self._is_explained(end):
            return
        self._reported = True
        self._show(f"error: {failure.text}" + ("" if failure.log is None else f"; the end of {failure.log}:"))
        for line in failure.last_lines:
            self._show(f"  {line}")

    def _is_explained(self, failure: WorkerExit) -> bool:
        """Return whether a worker that writes to the terminal left with the same error, and so has written it there."""
        alike = [rank for rank, end in self._ends.items() if end.return_code == failure.return_code]
        return failure.return_code in EXPLAINED_EXITS and any(self._logs[rank] is None for rank in alike)

    def _exit_code(self) -> int:
        if self._killed_by_person:
            return EXIT_STOPPED_BY_PERSON
        return (self._failure() or self._ends[min(self._ends)]).exit_code


@contextmanager
def _blocking_signals() -> Iterator[list[signal.Signals]]:
    """Block signals here and in workers, so that they are received one by one (`next_signal`).

    Yields the signals to receive. Signals that this process ignores, such as SIGHUP under nohup, are not among them:
    they would be received as well.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    watched = [number for number in _BLOCKED if signal.getsignal(number) != signal.SIG_IGN]
    try:
        yield watched
    finally:
        while signal.sigtimedwait(watched, 0) is not None:
            pass  # for workers that have ended
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(launcher: int) -> None:
    """Prepare a worker process before its program starts: it dies with its launcher; forwarded signals are blocked.

    A worker that trains exchanges that end for SIGTERM (`SignalFlags.begun`): before, it has nothing to save, and might
    wait for others that died too.

    These are also ignored until the worker sets its own handlers, and again after it has restored them. Otherwise a
    signal that comes while it leaves could end it through one of its threads that does not block it.
    """
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)  # while it is blocked, a signal stays pending all the same
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_BLOCKED) - set(FORWARDED))
    follow_parent(signal.SIGKILL, launcher)


def write_to_stderr(text: str) -> None:
    """Write a line for people to standard error."""
    with suppress(OSError, ValueError):  # a closed terminal must not end the training
        say(text, err=True)
