"""What surrounds a start and is not its run directory: its output, limits, rights, clock, and whether it may run.

A limit to its memory is not among them: gloo waits for ever for a thread that could not be made, before anything of a
run is read.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""Gives a process another clock; of Debian's package `faketime`."""
CLOCKS = ("@1970-01-01 00:00:10", "-400d", "-1h", "+1h", "+15y", "@2038-01-19 03:14:05", "@2026-01-01 00:00:00 i0,0")
"""As `FAKETIME` has them: long ago, wrong by hours and years, about to pass 2^31 seconds, standing still."""


@dataclass(frozen=True)
class Surroundings:
    """Of one start."""

    what: str
    prepare: Callable[[], None] = lambda: None
    """Called in the process that will train."""
    meanwhile: Callable[[int], None] | None = None
    """Called beside it, with its process id."""
    may_fail: bool = False
    """Whether the start may leave with an error or a traceback: it must then have lost nothing."""
    is_heard: bool = True
    """Whether its output can be read."""


def _full_output(draw: random.Random) -> Surroundings:
    def prepare() -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 1)
        os.dup2(full, 2)

    return Surroundings("its output goes to a full disk", prepare, is_heard=False)


def _closed_output(draw: random.Random) -> Surroundings:
    def prepare() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)

    return Surroundings("nobody reads its output any more", prepare, is_heard=False)


def _odd_environment(draw: random.Random) -> Surroundings:
    mask = draw.choice((0o000, 0o022, 0o077))

    def prepare() -> None:
        os.umask(mask)
        for name in ("HOME", "USER", "LOGNAME", "TMPDIR", "TERM"):
            os.environ.pop(name, None)
        os.environ |= {"LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kolkata"}

    return Surroundings(f"umask {mask:03o}, no HOME, locale C", prepare)


def _small_files(draw: random.Random) -> Surroundings:
    most = draw.choice((draw.randrange(1, 100), draw.randrange(1, 3000))) << 10

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it where it starts by itself
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return Surroundings(f"no file may be larger than {most >> 10} KiB", prepare, may_fail=True)


def _few_files(draw: random.Random) -> Surroundings:
    more = draw.randrange(1, 30)

    def prepare() -> None:
        limit = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + more
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    return Surroundings(f"{more} open files left", prepare, may_fail=True)


def _halts(draw: random.Random) -> Surroundings:
    pauses = [(draw.uniform(0.0, 0.3), draw.uniform(0.0, 0.5)) for _ in range(draw.randrange(1, 5))]

    def meanwhile(pid: int) -> None:
        with suppress(ProcessLookupError):
            for runs_s, halts_s in pauses:
                time.sleep(runs_s)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(halts_s)
                os.kill(pid, signal.SIGCONT)

    return Surroundings(f"halted {len(pauses)} times for a while", meanwhile=meanwhile)


SURROUNDINGS: Mapping[str, Callable[[random.Random], Surroundings]] = {
    "output to a full disk": _full_output,
    "output that nobody reads": _closed_output,
    "an odd environment": _odd_environment,
    "a limit to the size of files": _small_files,
    "few open files": _few_files,
    "halts": _halts,
}


def wrong_clock(draw: random.Random) -> dict[str, str]:
    """Environment of a process that has another clock; empty where that cannot be had."""
    if FAKETIME is None:
        return {}
    clock = draw.choice(CLOCKS)
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME": clock,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
