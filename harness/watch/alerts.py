"""Alerts people, with at most one message of a kind in a given time. No alert is lost.

Every alert is a line of `watch/alerts.jsonl`. Messages that could not be delivered are kept and tried again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.run.files import append_lines
from harness.watch.delivery import Deliver, UndeliveredError
from harness.watch.saved_state import WatchState

_MOST_WAITING = 100
_RETRY_S = 60.0


@dataclass
class Alerts:
    """Sends the alerts of one run."""

    path: Path
    """The run's `alerts.jsonl`."""
    run_name: str
    """Put before every message."""
    places: Sequence[Deliver]
    """Destinations. Delivery to one of them is enough."""
    every_s: float
    """Minimum time between two messages of one kind, in seconds."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    _tried: float = -_RETRY_S

    def alert(self, state: WatchState, kind: str, text: str) -> None:
        """Write an alert down, and send it unless one of its kind was sent within the last `every_s` seconds.

        Raises:
            OSError: From the disk.
        """
        now = self.clock()
        last = state.sent.get(kind)
        is_sent = last is None or not 0 <= now - last < self.every_s  # a clock that went back delays nothing
        line = {"time": round(now, 3), "kind": kind, "text": text, "sent": is_sent and bool(self.places)}
        append_lines(self.path, [json.dumps(line, ensure_ascii=False)])
        if not is_sent:
            state.held_back[kind] = state.held_back.get(kind, 0) + 1
            return
        state.sent[kind] = now
        more = state.held_back.pop(kind, 0)
        shown = f"{text} ({more} more of this kind since the last message)" if more else text
        if self.places:
            state.undelivered = [*state.undelivered, f"{self.run_name}: {shown}"][-_MOST_WAITING:]
            self._tried = -_RETRY_S
        self.deliver(state)

    def deliver(self, state: WatchState, *, is_last: bool = False) -> None:
        """Send the waiting alerts, again a minute after a failure. Delivery to one place is enough.

        `is_last` if there will be no later call: then they are tried at once.
        """
        now = self.clock()
        is_too_soon = 0 <= now - self._tried < _RETRY_S and not is_last
        if not self.places or not state.undelivered or is_too_soon:
            return
        self._tried = now
        while state.undelivered:
            problems = [problem for place in self.places if (problem := _problem(place, state.undelivered[0]))]
            if len(problems) == len(self.places):
                failed = {"time": round(now, 3), "kind": "undelivered", "text": "; ".join(problems)}
                append_lines(self.path, [json.dumps(failed)])
                return
            del state.undelivered[0]


def _problem(place: Deliver, text: str) -> str | None:
    try:
        place(text)
    except UndeliveredError as error:
        return str(error)
    return None
