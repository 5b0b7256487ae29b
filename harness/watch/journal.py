"""Events of the watcher in the run's `events.jsonl`, beside those of the trainer.

Both append whole lines with one write each, which the kernel does not mix. An event has an `id` that follows from its
cause, so that a watcher that was killed and sees the cause again does not write it twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TAIL_BYTES = 4 * 1024**2
WRITER = "watch"


class Journal:
    """Appends the watcher's events."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._known = _ids(path)

    def write(self, event_id: str, kind: str, *, attempt: int, step: int, **fields: object) -> bool:
        """Appends an event; False if one of this id is there.

        Raises:
            OSError: From the disk.
        """
        if event_id in self._known:
            return False
        event = {"time": round(self._clock(), 3), "kind": kind, "attempt": attempt, "step": step, **fields}
        append_line(self._path, json.dumps({**event, "by": WRITER, "id": event_id}, default=str))
        self._known.add(event_id)
        return True


def append_line(path: Path, line: str) -> None:
    """Appends a line in one write; ends a half line that somebody left behind.

    Raises:
        OSError: From the disk.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        start = "\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else ""
        os.write(descriptor, f"{start}{line}\n".encode())
    finally:
        os.close(descriptor)


def _ids(path: Path) -> set[str]:
    """The ids of the watcher's latest events."""
    found: set[str] = set()
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for line in file:
            with suppress(ValueError, TypeError, AttributeError):
                event = json.loads(line)
                if event.get("by") == WRITER:
                    found.add(str(event["id"]) if "id" in event else "")
    return found
