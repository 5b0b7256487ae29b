"""The watcher's outputs: events for the record, alerts for people, commands for the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.alerts.alert import Alert, Kind
from harness.alerts.desk import AlertDesk
from harness.run.commands.giving import give_once, is_answered
from harness.run.commands.requests import AnyRequest
from harness.run.event_base import StepEvent
from harness.run.event_types import Seen
from harness.run.events import append_event, last_events
from harness.run.paths import RunDir
from harness.watch.saved_state import WatchState
from harness.watch.verdict import Verdict

_SPIKE, _NOT_FINITE = "spike", "not-finite"


def spike_key(channel: str, start: int) -> str:
    """Return the key of the alert about an episode."""
    return f"{_SPIKE}-{channel}-{start}"


def not_finite_key(channel: str) -> str:
    """Return the key of the alert about a loss that is not finite."""
    return f"{_NOT_FINITE}-{channel}"


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
    alerts: AlertDesk
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

    def alert(self, alert: Alert, seen_id: str | None = None) -> None:
        """Alert people and print the text, unless the run's past is being read.

        What was seen before, under the same `seen_id`, is not told again: the watcher may have been killed since.
        """
        if self.is_history:
            return
        if self.outputs.alerts.tell(alert, None if seen_id is None else f"{self.state.attempt}-{seen_id}"):
            self.outputs.show(alert.text)

    def over(self, key: str, text: str) -> None:
        """Tell people that a thing is over, if it was open."""
        if not self.is_history and self.outputs.alerts.end(key, text, self.state.step):
            self.outputs.show(text)

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
        event_id = f"{verdict.kind}-{verdict.channel}-{verdict.start}"
        self.event(event_id, seen)
        if verdict.kind == "non-finite":
            text = f"loss of {verdict.channel} is not finite at step {verdict.start}"
            key = not_finite_key(verdict.channel)
        elif verdict.kind == "confirmed":
            moved = f"moved {verdict.direction} at step {verdict.start} ({verdict.height:+.3f} nats)"
            text, key = f"loss of {verdict.channel} {moved}", spike_key(verdict.channel, verdict.start)
        else:
            return
        at = {"step": verdict.start, "channel": verdict.channel}
        self.alert(Alert(key=key, kind=Kind.SPIKE, text=text, lasts=True, **at), event_id)

    def command(self, name: str, request: AnyRequest, reason: str) -> bool:
        """Give a command, unless the watcher may only look; return whether it waits for an answer."""
        if not self.outputs.may_command:
            return False
        return give_once(self.run_dir, name, request, reason) or not is_answered(self.run_dir, name)
