"""Shows how far a long preparation is: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from data_prep.totals import Totals

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    """Called after every batch, from one thread."""

    def __call__(self, totals: Totals | None, bytes_read: int) -> None:
        """Takes note of the counts so far (None where nothing is counted) and of the input bytes (as on disk)."""


@contextmanager
def shown_progress(title: str, total_bytes: int, console: Console) -> Iterator[Progress]:
    """A bar if the console is a terminal, else a line every ten seconds."""
    if not console.is_terminal:
        yield LineProgress(title, total_bytes, write=lambda line: console.out(line, highlight=False))
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total_bytes, numbers="")
        started_s = time.monotonic()

        def show(totals: Totals | None, bytes_read: int) -> None:
            numbers = describe(totals, bytes_read, time.monotonic() - started_s)
            bar.update(task, completed=bytes_read, numbers=numbers)

        yield show


@contextmanager
def shown_byte_progress(title: str, total_bytes: int, console: Console) -> Iterator[Callable[[int], None]]:
    """The same for work that only counts bytes: called with the bytes of each piece that is done, from any thread."""
    done = 0
    lock = threading.Lock()
    with shown_progress(title, total_bytes, console) as progress:

        def add(num_bytes: int) -> None:
            nonlocal done
            with lock:
                done += num_bytes
                progress(None, done)

        yield add


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
        self._title = title
        self._total_bytes = total_bytes
        self._write = write
        self._clock = clock
        self._every_s = every_s
        self._started_s = self._last_s = clock()

    def __call__(self, totals: Totals | None, bytes_read: int) -> None:
        """See `Progress`."""
        now_s = self._clock()
        if now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        elapsed_s = now_s - self._started_s
        share = bytes_read / self._total_bytes if self._total_bytes else 1.0
        left_s = elapsed_s * (1 - share) / share if share else float("inf")
        numbers = describe(totals, bytes_read, elapsed_s)
        self._write(f"{self._title}: {share:.1%}, {numbers}, {readable_seconds(left_s)} left")


def describe(totals: Totals | None, bytes_read: int, elapsed_s: float) -> str:
    """Speed (input bytes as on disk) and counts in one phrase."""
    speed = bytes_read / 1e6 / elapsed_s if elapsed_s > 0 else 0.0
    if totals is None:
        return f"{speed:.1f} MB/s"
    rejected = f", {totals.rejected:,} rejected" if totals.rejected else ""
    return f"{speed:.1f} MB/s, {totals.documents:,} documents, {totals.tokens:,} tokens{rejected}"


def readable_seconds(seconds: float) -> str:
    """A length of time as one would say it."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
