"""Shows how far a conversion is, its speed and the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call, from any thread."""

ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]
"""Opens a display for a title and a number of bytes."""

SECONDS_BETWEEN_LINES = 10.0


def silent(num_bytes: int) -> None:
    """Shows nothing."""


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

    def __call__(self, num_bytes: int) -> None:
        """See `Progress`."""
        with self._lock:
            self._done_bytes += num_bytes
            now_s = self._clock()
            if now_s - self._last_s >= self._every_s:
                self._last_s = now_s
                self._write(self._line(now_s - self._started_s))

    def _line(self, elapsed_s: float) -> str:
        done, total = self._done_bytes, self._total_bytes
        left_s = elapsed_s * (total - done) / done if done else float("inf")
        return f"{self._title}: {done / max(total, 1):.0%}, {speed(done, elapsed_s)}, {left_s:.0f} s left"


def speed(num_bytes: int, elapsed_s: float) -> str:
    """Bytes per second as one would say it."""
    return f"{num_bytes / 1e9 / elapsed_s:.2f} GB/s" if elapsed_s > 0 else "0 GB/s"


@contextmanager
def shown(title: str, total_bytes: int) -> Iterator[Progress]:
    """A bar if standard error is a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        yield LineProgress(title, total_bytes, write=lambda line: _write_line(line))
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda num_bytes: bar.advance(task, num_bytes)


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
