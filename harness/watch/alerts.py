"""Alerts people, with at most one message of a kind in a given time. No alert is lost.

Every alert is a line of `watch/alerts.jsonl`. Messages that could not be delivered are kept and tried again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.run.files import append_lines
from harness.watch.delivery import Deliver, UndeliveredError
from harness.watch.saved_state import WatchState

_MOST_WAITING = 100
_RETRY_S = 60.0


class Alerts:
    """Sends the alerts of one run."""

    def __init__(
        self,
        path: Path,
        run_name: str,
        places: Sequence[Deliver],
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the destinations; nothing is sent yet. `every_s` is the minimum time between messages of one kind."""
        self._path = path
        self._run_name = run_name
        self._places = places
        self._every_s = every_s
        self._clock = clock
        self._tried = -_RETRY_S

    def alert(self, state: WatchState, kind: str, text: str) -> None:
        """Write an alert down, and send it unless one of its kind was sent within the last `every_s` seconds.

        Raises:
            OSError: From the disk.
        """
        now = self._clock()
        last = state.sent.get(kind)
        is_sent = last is None or not 0 <= now - last < self._every_s  # a clock that went back delays nothing
        line = {"time": round(now, 3), "kind": kind, "text": text, "sent": is_sent and bool(self._places)}
        append_lines(self._path, [json.dumps(line, ensure_ascii=False)])
        if not is_sent:
            state.held_back[kind] = state.held_back.get(kind, 0) + 1
            return
        state.sent[kind] = now
        more = state.held_back.pop(kind, 0)
        shown = f"{text} ({more} more of this kind since the last message)" if more else text
        if self._places:
            state.undelivered = [*state.undelivered, f"{self._run_name}: {shown}"][-_MOST_WAITING:]
            self._tried = -_RETRY_S
        self.deliver(state)

    def deliver(self, state: WatchState, *, is_last: bool = False) -> None:
        """Send the waiting alerts, again a minute after a failure. Delivery to one place is enough.

        `is_last` if there will be no later call: then they are tried at once.
        """
        now = self._clock()
        is_too_soon = 0 <= now - self._tried < _RETRY_S and not is_last
        if not self._places or not state.undelivered or is_too_soon:
            return
        self._tried = now
        while state.undelivered:
            problems = [problem for place in self._places if (problem := _problem(place, state.undelivered[0]))]
            if len(problems) == len(self._places):
                failed = {"time": round(now, 3), "kind": "undelivered", "text": "; ".join(problems)}
                append_lines(self._path, [json.dumps(failed)])
                return
            del state.undelivered[0]


def _problem(place: Deliver, text: str) -> str | None:
    try:
        place(text)
    except UndeliveredError as error:
        return str(error)
    return None
