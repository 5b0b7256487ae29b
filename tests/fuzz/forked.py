"""Runs a function, such as a command of `harness`, in a fork of this process with limits; how it ended, what it used.

Must be called in a process without other threads. The fork is in a session and a folder of its own, writes to files in
memory, and dies with this process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from process_runs import descendants

from harness.launch.machine import free_port

_PR_SET_PDEATHSIG = 1
_STACKS = signal.SIGRTMIN
"""Sent to what hangs, which then says where."""
_MOST_FILE_BYTES = 1 << 30
"""Of a file that a command writes: a disk that is full would end the campaign."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one command; they are those of a busy machine."""

    wall_s: float = 10.0
    """A command that takes longer hangs."""
    processor_s: float = 10.0
    """It and its children together."""
    memory_bytes: int = 1 << 30
    """Resident, beside what the fork begins with; twice as much cannot be had at all."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    arguments: tuple[str, ...]
    code: int
    """As `subprocess` has it: negative for a signal."""
    output: bytes
    errors: bytes
    hangs: bool
    wall_s: float
    processor_s: float
    grown_bytes: int
    """By how much the largest process of it was larger than at the fork."""


class _Streams(NamedTuple):
    """Descriptors of files in memory."""

    output: int
    errors: int
    size: int
    """Resident bytes at the beginning."""


def run_forked(work: Callable[[], int], folder: Path, limits: Limits, arguments: tuple[str, ...] = ()) -> Outcome:
    """Runs a function, whose result is the exit code, in a fork."""
    streams = _Streams(*(os.memfd_create(name) for name in ("output", "errors", "size")))
    started_s = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
        pid = os.fork()
    if pid == 0:
        _become(work, folder, limits, streams)
    hangs = not _ends_within(pid, limits.wall_s)
    if hangs:
        with suppress(ProcessLookupError):
            os.kill(pid, _STACKS)
        _ends_within(pid, 0.3)
    left_over = list(descendants(pid))
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for child in left_over:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    return Outcome(
        arguments=arguments,
        code=os.waitstatus_to_exitcode(status),
        output=_content(streams.output),
        errors=_content(streams.errors),
        hangs=hangs,
        wall_s=time.monotonic() - started_s,
        processor_s=used.ru_utime + used.ru_stime,
        grown_bytes=max(0, used.ru_maxrss * 1024 - int(_content(streams.size) or used.ru_maxrss * 1024)),
    )


def _ends_within(pid: int, seconds: float) -> bool:
    """Whether a child has ended by then; it is not waited for, so that its number stays its own."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return bool(ready)
    finally:
        os.close(descriptor)


def _become(work: Callable[[], int], folder: Path, limits: Limits, streams: _Streams) -> None:
    code = 99
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, streams.output), (2, streams.errors)):
            os.dup2(source, target)
        sys.stdin = os.fdopen(0, "r", closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.register(_STACKS, file=2)
        data = _data_bytes() + 2 * limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (data, resource.RLIM_INFINITY))  # children may set their own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))
        warnings.simplefilter("ignore")
        os.write(streams.size, str(_resident_bytes()).encode())
        code = work()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 (the fork must not return into the campaign)
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def harness(arguments: Sequence[str]) -> int:
    """Becomes the command `harness` with arguments; the exit code."""
    from harness.cli import run
    from harness.standard_streams import drop_unread_output, open_standard_streams

    sys.argv = ["harness", *arguments]
    open_standard_streams()
    code = run(arguments)
    drop_unread_output()
    return code


def worker(arguments: Sequence[str]) -> int:
    """Becomes the only rank of a trainer; the exit code."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    from harness.run.commands import mailbox
    from harness.train.worker import work

    vars(mailbox)["UNFINISHED_S"] = 0.0  # the run is over before a file that is no command would be moved away
    sys.argv = ["worker", *arguments]
    return work()


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, min(size, 1 << 22), 0)
    os.close(descriptor)
    return content


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _data_bytes() -> int:
    """What counts against RLIMIT_DATA at the moment."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024
