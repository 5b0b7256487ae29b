"""Processes of `harness` that begin with torch and Megatron loaded: forks of one that has loaded them.

A command that is started by `WarmCommand` is a process of its own, in a session, folder and environment of its own,
and so are its workers; but neither is a new interpreter. That saves seconds of processor time per process. What a new
interpreter has of its own, its start and its end, is tested by the commands that are started cold.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from forkserver import warm_context

_PR_SET_NAME = 15
WORKER_NAME = "rank "
"""What the name of a forked worker begins with (`/proc/PID/comm`): `/proc/PID/environ` is that of the first process."""


class WarmCommand:
    """A `harness` command that runs in the background: as much of `subprocess.Popen` as the tests use."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._output, output = warm_context().Pipe(duplex=False)
        self._process = warm_context().Process(
            target=_run_command, args=(list(arguments), str(folder), dict(environment), output)
        )
        self._process.start()
        output.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("harness", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, None]:
        """Return what was written, to the end, and nothing of standard error, which goes the same way."""
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = b""
        while not self._output.closed:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left < 0 or not self._output.poll(left)):
                raise subprocess.TimeoutExpired("harness", timeout or 0.0, output=seen)
            part = os.read(self._output.fileno(), 1 << 16)
            seen += part
            if not part:
                self._output.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return seen, None


def _run_command(arguments: list[str], folder: str, environment: Mapping[str, str], output: Connection) -> None:
    """Become the command."""
    os.setsid()
    os.chdir(folder)
    _settle(environment, output.fileno(), unbuffered=False)
    output.close()
    sys.argv = ["harness", *arguments]
    from harness import cli
    from harness.launch import workers

    vars(workers)["subprocess"] = SimpleNamespace(Popen=_ForkedWorker, DEVNULL=subprocess.DEVNULL)
    cli.main()


class _ForkedWorker:
    """A worker of a launch, forked from its launcher: as much of `subprocess.Popen` as the launcher uses."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: int | None,
        preexec_fn: Callable[[], None],
        **_: object,
    ) -> None:
        from harness.launch.local import WORKER

        assert tuple(command[: len(WORKER)]) == WORKER, command
        arguments = list(command[len(WORKER) :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
            self._process = multiprocessing.get_context("fork").Process(
                target=_run_worker, args=(arguments, dict(env), stdout, preexec_fn)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> None:
        self._process.join()

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _run_worker(
    arguments: list[str], environment: Mapping[str, str], output: int | None, prepare: Callable[[], None]
) -> None:
    """Become the worker."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"{WORKER_NAME}{environment['RANK']}".encode())
    prepare()
    _settle(environment, output, unbuffered=True)
    warnings.resetwarnings()
    faulthandler.enable()
    gc.collect()
    sys.argv = ["worker", *arguments]
    from harness.train.worker import work

    sys.exit(work())


def _settle(environment: Mapping[str, str], output: int | None, *, unbuffered: bool) -> None:
    """Take over an environment and an output."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):
        if output is not None:
            os.dup2(output, descriptor)
    sys.stdout = _text(1, unbuffered=unbuffered)
    sys.stderr = _text(2, unbuffered=unbuffered)


def _text(descriptor: int, *, unbuffered: bool) -> Any:
    """Return a stream of text as a new interpreter has it."""
    stream = os.fdopen(descriptor, "w", closefd=False)
    stream.reconfigure(line_buffering=descriptor == 2, write_through=unbuffered)
    return stream
