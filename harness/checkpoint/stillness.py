"""Detects a process that does nothing, from the kernel's numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


class Stillness:
    """Time for which a process has neither computed, nor read or written, nor waited for a disk."""

    def __init__(self, pid: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._clock = clock
        self._last = self._done()
        self._since_s = clock()

    def seconds(self) -> float:
        """Return the seconds since it was first found to do nothing; 0 if the kernel has no numbers."""
        now = self._done()
        if now is None or now != self._last:
            self._last, self._since_s = now, self._clock()
        return self._clock() - self._since_s

    def _done(self) -> tuple[int, ...] | None:
        """Return processor time and bytes moved so far; None if a thread waits for a disk, or they are unknown."""
        try:
            tasks = [path.read_text().rpartition(")")[2].split() for path in self._folder.glob("task/*/stat")]
            moved = [int(line.split()[1]) for line in (self._folder / "io").read_text().splitlines()]
        except (OSError, ValueError, IndexError):
            return None
        if not tasks or any(fields[0] == "D" for fields in tasks):
            return None
        return (sum(int(fields[11]) + int(fields[12]) for fields in tasks), *moved)
