"""Writes the watcher's events to the run's `events.jsonl`, each once, however often the watcher is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from harness.run.event_types import StepEvent
from harness.run.events import append_event, last_events


class WatcherEvents:
    """Appends the watcher's events. Each has an `id` that follows from its cause."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        found = (event for event in last_events(path) if isinstance(event, StepEvent) and event.by == "watch")
        self._known = {event.id or "" for event in found}

    def write(self, event_id: str, event: StepEvent) -> bool:
        """Append an event; return False if one of this id is there.

        Raises:
            OSError: From the disk.
        """
        if event_id in self._known:
            return False
        append_event(self._path, event.model_copy(update={"by": "watch", "id": event_id}), self._clock)
        self._known.add(event_id)
        return True
