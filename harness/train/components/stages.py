"""The time of what takes long, stage by stage, for the event that tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Stages:
    """Stages of which each begins where the one before ends. A stage that comes again adds up."""

    def __init__(self, first: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin the first stage now."""
        self._clock = clock
        self._begun = self._since = clock()
        self._name = first
        self._ended: dict[str, float] = {}

    @property
    def total_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, to the millisecond, in the order in which they began."""
        now = {**self._ended, self._name: self._ended.get(self._name, 0.0) + self._clock() - self._since}
        return {name: round(seconds, 3) for name, seconds in now.items()}

    def enter(self, name: str) -> None:
        """Begin a stage, and end the one under way."""
        now = self._clock()
        self._ended[self._name] = self._ended.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now
