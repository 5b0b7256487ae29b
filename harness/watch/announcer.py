"""The watcher's outputs: events for the record, alerts for people, commands for the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.run.commands.giving import give_once, is_answered
from harness.run.commands.requests import AnyRequest
from harness.run.event_types import Seen, StepEvent
from harness.run.events import append_event, last_events
from harness.run.paths import RunDir
from harness.watch.alerts import Alerts
from harness.watch.saved_state import WatchState
from harness.watch.verdict import Verdict


class WatcherEvents:
    """Appends events, each with an `id` that follows from its cause: once, however often the watcher is killed."""

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


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The outputs of a watcher."""

    events: WatcherEvents
    alerts: Alerts
    show: Callable[[str], None]
    """Prints a line to the terminal."""
    may_command: bool = True
    """True if the watcher may give commands; otherwise it only writes events and alerts."""


@dataclass
class Announcer:
    """Writes the events, sends the alerts and gives the commands of one watcher."""

    run_dir: RunDir
    state: WatchState
    outputs: Outputs
    is_history: bool
    """True while the run's past is read. Nobody is alerted of the past."""

    def event(self, event_id: str, event: StepEvent) -> bool:
        """Write an event of the watcher; return False if one of this id was written before."""
        return self.outputs.events.write(f"{self.state.attempt}-{event_id}", event)

    def alert(self, kind: str, text: str) -> None:
        """Alert people and print the text, unless the run's past is being read."""
        if not self.is_history:
            self.outputs.show(text)
            self.outputs.alerts.alert(self.state, kind, text)

    def verdict(self, verdict: Verdict) -> None:
        """Write a verdict down as an event, and alert people of the important ones."""
        seen = Seen(
            kind="spike" if verdict.kind == "confirmed" else verdict.kind,
            attempt=self.state.attempt,
            step=self.state.step,
            channel=verdict.channel,
            direction=verdict.direction,
            start=verdict.start,
            end=verdict.end,
            z=round(verdict.z, 2),
            height=round(verdict.height, 4),
        )
        if not self.event(f"{verdict.kind}-{verdict.channel}-{verdict.start}", seen):
            return
        if verdict.kind == "non-finite":
            self.alert("spike", f"loss of {verdict.channel} is not finite at step {verdict.start}")
        elif verdict.kind == "confirmed":
            moved = f"moved {verdict.direction} at step {verdict.start} ({verdict.height:+.3f} nats)"
            self.alert("spike", f"loss of {verdict.channel} {moved}")

    def command(self, name: str, request: AnyRequest, reason: str) -> bool:
        """Give a command, unless the watcher may only look; return whether it waits for an answer."""
        if not self.outputs.may_command:
            return False
        return give_once(self.run_dir, name, request, reason) or not is_answered(self.run_dir, name)
