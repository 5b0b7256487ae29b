"""Tells people, without telling them everything: one message of a kind in some minutes, and none is lost.

Every alert is a line of `watch/alerts.jsonl`. Those that are sent and that nobody takes are kept and tried again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.watch.delivery import Deliver, UndeliveredError
from harness.watch.journal import append_line
from harness.watch.saved_state import Memory

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
        """`every_s` is the least time between two messages of one kind."""
        self._path = path
        self._run_name = run_name
        self._places = places
        self._every_s = every_s
        self._clock = clock
        self._tried = -_RETRY_S

    def tell(self, memory: Memory, kind: str, text: str) -> None:
        """Writes an alert down, and sends it unless one of its kind was sent lately.

        Raises:
            OSError: From the disk.
        """
        now = self._clock()
        last = memory.sent.get(kind)
        is_sent = last is None or not 0 <= now - last < self._every_s  # a clock that went back holds nothing up
        line = {"time": round(now, 3), "kind": kind, "text": text, "sent": is_sent and bool(self._places)}
        append_line(self._path, json.dumps(line, ensure_ascii=False))
        if not is_sent:
            memory.held_back[kind] = memory.held_back.get(kind, 0) + 1
            return
        memory.sent[kind] = now
        more = memory.held_back.pop(kind, 0)
        shown = f"{text} ({more} more of this kind since the last message)" if more else text
        if self._places:
            memory.undelivered = [*memory.undelivered, f"{self._run_name}: {shown}"][-_MOST_WAITING:]
            self._tried = -_RETRY_S
        self.deliver(memory)

    def deliver(self, memory: Memory, *, is_last: bool = False) -> None:
        """Sends what waits; after a failure again in a minute. An alert is taken when one place has taken it.

        `is_last`: nobody will try again, so it is tried at once.
        """
        now = self._clock()
        is_too_soon = 0 <= now - self._tried < _RETRY_S and not is_last
        if not self._places or not memory.undelivered or is_too_soon:
            return
        self._tried = now
        while memory.undelivered:
            problems = [problem for place in self._places if (problem := _problem(place, memory.undelivered[0]))]
            if len(problems) == len(self._places):
                append_line(
                    self._path, json.dumps({"time": round(now, 3), "kind": "undelivered", "text": "; ".join(problems)})
                )
                return
            del memory.undelivered[0]


def _problem(place: Deliver, text: str) -> str | None:
    try:
        place(text)
    except UndeliveredError as error:
        return str(error)
    return None
