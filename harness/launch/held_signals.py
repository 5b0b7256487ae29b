"""Waits for blocked signals, even in a process that is stopped and continued meanwhile.

`signal.sigtimedwait` is not enough. If its time is over when a stopped process is continued (`Ctrl-Z` and `fg`, or
SIGSTOP), Python up to at least 3.13 returns an uninitialized siginfo, which is a signal that was never sent.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterable

_SIGSET_BYTES = 128
_SIGINFO_BYTES = 128
"""Size of `struct signalfd_siginfo`, which begins with the number of the signal."""


def next_signal(watched: Iterable[int], timeout_s: float) -> int | None:
    """Return the next of the watched signals, which this thread must block; None if none comes within the time.

    Another thread that does not block a signal may take it first. Then the result is None, possibly before the time is
    over.
    """
    wanted = sum(1 << (number - 1) for number in watched).to_bytes(_SIGSET_BYTES, "little")
    descriptor = ctypes.CDLL(None, use_errno=True).signalfd(-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with os.fdopen(descriptor, "rb", buffering=0) as signals:
        ready, _, _ = select.select([signals], [], [], timeout_s)
        sent = signals.read(_SIGINFO_BYTES) if ready else None  # also None if another thread has taken it
    return None if sent is None else int(struct.unpack_from("I", sent)[0])
