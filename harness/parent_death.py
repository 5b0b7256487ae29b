"""Processes that end with the one that started them, however that one died: Linux sends them a signal."""

from __future__ import annotations

import ctypes
import os
import signal

_SET, _GET = 1, 2
"""PR_SET_PDEATHSIG and PR_GET_PDEATHSIG of prctl(2)."""


def follow_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have this process get a signal when its parent dies.

    `parent` is the process id of the parent as it was: if that one has died before this call, the signal comes at once.
    """
    ctypes.CDLL(None).prctl(_SET, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def followed_signal() -> int:
    """Return the signal that this process gets when its parent dies; 0 for none."""
    number = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_GET, ctypes.byref(number))
    return number.value
