"""Shows progress, speed and time left of long work: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from harness.text import printable

if TYPE_CHECKING:
    from harness.screen import Screen

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call, from any thread."""

ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]
"""Opens a display for a title and a number of bytes."""

SECONDS_BETWEEN_LINES = 10.0


class CountingProgress(Protocol):
    """A `Progress` that also shows counts."""

    def __call__(self, num_bytes: int, counts: str = "") -> None:
        """Add the bytes done since the last call, and show `counts` beside the speed."""


def silent(num_bytes: int) -> None:
    """Show nothing."""


class LineProgress:
    """Writes a line when `every_s` seconds have passed since the last one."""

    def __init__(
        self,
        title: str,
        total_bytes: int,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self._title, self._total_bytes, self._write = title, total_bytes, write
        self._clock, self._every_s = clock, every_s
        self._started_s = self._last_s = clock()
        self._done_bytes = 0
        self._lock = threading.Lock()

    def __call__(self, num_bytes: int, counts: str = "") -> None:
        """Add bytes and counts as `CountingProgress` does."""
        with self._lock:
            self._done_bytes += num_bytes
            now_s = self._clock()
            if now_s - self._last_s >= self._every_s:
                self._last_s = now_s
                self._write(self._line(now_s - self._started_s, counts))

    def _line(self, elapsed_s: float, counts: str) -> str:
        share = self._done_bytes / self._total_bytes if self._total_bytes else 1.0
        left_s = elapsed_s * (1 - share) / share if share else float("inf")
        numbers = speed_text(self._done_bytes, elapsed_s, counts)
        return f"{self._title}: {share:.1%}, {numbers}, {seconds_text(left_s)} left"


@contextmanager
def shown(title: str, total_bytes: int, console: Screen | None = None) -> Iterator[CountingProgress]:
    """Show a bar if the console (default: standard error) is a terminal, else a line every ten seconds."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from harness.screen import Screen

    title, screen = printable(title), console or Screen(stderr=True)
    if not screen.is_terminal:
        yield LineProgress(title, total_bytes, write=lambda line: screen.out(line, highlight=False))
        return
    numbers = TextColumn("{task.fields[numbers]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), numbers, TimeRemainingColumn())
    lock, started_s, done_bytes = threading.Lock(), time.monotonic(), 0
    with Bar(*columns, console=screen) as bar:
        task = bar.add_task(title, total=total_bytes, numbers="")

        def show(num_bytes: int, counts: str = "") -> None:
            nonlocal done_bytes
            with lock:
                done_bytes += num_bytes
                text = speed_text(done_bytes, time.monotonic() - started_s, counts)
                bar.update(task, completed=done_bytes, numbers=text)

        yield show


def speed_text(num_bytes: int, elapsed_s: float, counts: str = "") -> str:
    """Return bytes per second in words, and the counts."""
    per_s = num_bytes / elapsed_s if elapsed_s > 0 else 0.0
    speed = f"{per_s / 1e9:.2f} GB/s" if per_s >= 1e9 else f"{per_s / 1e6:.1f} MB/s"
    return f"{speed}, {counts}" if counts else speed


def seconds_text(seconds: float) -> str:
    """Return a duration in words."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
