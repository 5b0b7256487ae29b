"""A process in which torch and Megatron are loaded once; every start of the trainer is a fork of it.

What runs in the fork is what `harness train` starts for each rank, `harness.train.worker.work`, alone in its world. A
start costs about half a second of processor time instead of seven. Before anything is read or written the fork waits,
so that a tracer can be attached to it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from process_runs import descendants, kill_all

from harness.launch.machine import free_port

_PR_SET_PDEATHSIG = 1
_STACKS = signal.SIGRTMIN
"""Sent to what hangs, which then says where."""
DEADLINE_S = 240.0
"""A start of the tiny run takes seconds; one that takes so long, even on a busy machine, hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a start of the trainer ended."""

    code: int
    """As `subprocess` has it: negative for a signal."""
    output: str
    hangs: bool = False

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class WarmTrainer:
    """Loads the libraries when it is made; must be made in a process without other threads."""

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        import libraries  # noqa: F401 (loaded for the forks)
        import torch

        torch.set_num_threads(1)

    def start(
        self,
        config: Path,
        run_dir: Path,
        *,
        strace: Sequence[str] = (),
        meanwhile: Callable[[int], None] | None = None,
        prepare: Callable[[], None] = lambda: None,
        resume: str = "auto",
    ) -> Outcome:
        """Runs the trainer to its end, under `strace` if arguments for it are given.

        `prepare` is called in its process before it goes off; `meanwhile`, with its process id, in this one when it
        does.
        """
        output = config.with_name("output.txt")
        output.write_bytes(b"")  # a start that is killed at once must not seem to have said what the last one said
        reading, writing = os.pipe()
        port = free_port()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
            pid = os.fork()
        if pid == 0:
            os.close(writing)
            _train(config, run_dir, output, reading, port, resume, prepare)
        os.close(reading)
        tracer = _attach(pid, strace, config.with_name("strace.txt")) if strace else None
        os.write(writing, b"x")
        os.close(writing)
        if meanwhile is not None:
            meanwhile(pid)
        code = _wait(pid)
        hangs = code is None
        if code is None:
            victims = [pid, *descendants(pid)]
            _ask_for_stacks(victims)
            kill_all(victims)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if tracer is not None:
            tracer.wait()
        return Outcome(code, output.read_text(errors="replace"), hangs)


def _train(
    config: Path, run_dir: Path, output: Path, go: int, port: int, resume: str, prepare: Callable[[], None]
) -> None:
    code = 99
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives a campaign that is stopped
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        sys.argv = ["worker", "--run-dir", str(run_dir), "--config", str(config), "--resume", resume]
        warnings.simplefilter("ignore")
        faulthandler.register(_STACKS, file=2)
        os.read(go, 1)
        prepare()
        from harness.train.worker import work

        code = work()
    except BaseException:  # noqa: BLE001 (the fork must not return into the campaign)
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def _wait(pid: int) -> int | None:
    """The exit code of a child, None if it does not end in time."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _ask_for_stacks(pids: Sequence[int]) -> None:
    """Has each process write the stacks of its threads to its output."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, _STACKS)
        time.sleep(1.0)


def _attach(pid: int, arguments: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    """Starts `strace` on a process and returns when it is attached."""
    with said.open("wb") as stream:  # a pipe that nobody reads would fill up: it names every thread
        tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *arguments], stderr=stream)
    while b" attached" not in (text := said.read_bytes()):
        assert tracer.poll() is None, f"strace cannot trace: {text.decode()}"
        time.sleep(0.002)
    return tracer
