"""The alarms among a run's events, which speak against the checkpoints around them."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from harness.run.event_base import StepEvent
from harness.run.events import parse_event
from harness.run.follow import Mark, new_lines
from harness.run.paths import RunDir

ALARMS = frozenset(("suspect", "spike", "resume-suspect", "nan", "marked-suspect"))
"""Kinds of events that are alarms."""


class Alarm(NamedTuple):
    """The position of an alarm, or of the run."""

    attempt: int
    step: int


class Alarms:
    """The alarms among a run's events. Each look reads only what was appended since the one before."""

    def __init__(self, run_dir: RunDir) -> None:
        self._path = run_dir.events
        self._mark = Mark()
        self._known: dict[Alarm, None] = {}

    def look(self) -> list[Alarm]:
        """Return all alarms so far, in the order in which they were given. A file that cannot be read has no new ones.

        A file that was replaced or cut is read again; what it had still counts.
        """
        with suppress(OSError):
            for line in new_lines(self._path, self._mark):
                event = parse_event(line, ALARMS)
                if isinstance(event, StepEvent):
                    self._known[Alarm(event.attempt, event.step)] = None
        return list(self._known)
