"""Takes a run that what is left of an earlier launch may still hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import RunEndingError
from harness.run.lock import RunLock

REMAINS_PATIENCE_S = 60.0
"""Time for ranks whose launcher has died to save and to leave; a start that finds them then leaves with the exit code
for another try."""
_LOOK_EVERY_S = 1.0


@contextmanager
def held(
    lock: RunLock,
    tell: Callable[[str], None],
    *,
    patience_s: float = REMAINS_PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[RunLock]:
    """Hold the lock of a run for the time of the block, and wait for what is left of an earlier launch on this machine.

    Raises:
        RunEndingError: It did not end in time.
        RunInUseError: Another process trains there.
    """
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            lock.acquire()
            break
        except RunEndingError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                tell(f"waiting up to {patience_s:g} s: {error}")
                told = True
        sleep(_LOOK_EVERY_S)
    try:
        yield lock
    finally:
        lock.release()
