"""What the watcher lets others know: events for the record, alerts for people, orders for the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.run.commands.command import OrderKind, Request
from harness.run.commands.post import is_answered, post
from harness.run.paths import RunDir
from harness.watch.alerts import Alerts
from harness.watch.journal import Journal
from harness.watch.saved_state import Memory
from harness.watch.verdict import Verdict

_EVENT_KINDS = {"confirmed": "spike"}
"""Verdicts that are called otherwise in `events.jsonl`."""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """What the watcher can do."""

    journal: Journal
    alerts: Alerts
    say: Callable[[str], None]
    """Tells whoever sits at the terminal."""
    may_order: bool = True
    """Without it, the watcher only looks and tells."""


@dataclass
class Telling:
    """Speaks in the name of one watcher."""

    run_dir: RunDir
    memory: Memory
    hands: Hands
    is_history: bool
    """While it is, people are not told: news of what was long ago is none."""

    def event(self, event_id: str, kind: str, **fields: object) -> bool:
        """Writes an event; False if it was written before."""
        memory = self.memory
        return self.hands.journal.write(
            f"{memory.attempt}-{event_id}", kind, attempt=memory.attempt, step=memory.step, **fields
        )

    def tell(self, kind: str, text: str) -> None:
        """Tells people."""
        if not self.is_history:
            self.hands.say(text)
            self.hands.alerts.tell(self.memory, kind, text)

    def verdict(self, verdict: Verdict) -> None:
        """Writes a verdict down, and tells people of those that matter."""
        is_news = self.event(
            f"{verdict.kind}-{verdict.channel}-{verdict.start}",
            _EVENT_KINDS.get(verdict.kind, verdict.kind),
            channel=verdict.channel,
            direction=verdict.direction,
            start=verdict.start,
            end=verdict.end,
            z=round(verdict.z, 2),
            height=round(verdict.height, 4),
        )
        if not is_news:
            return
        if verdict.kind == "non-finite":
            self.tell("spike", f"loss of {verdict.channel} is not finite at step {verdict.start}")
        elif verdict.kind == "confirmed":
            moved = f"moved {verdict.direction} at step {verdict.start} ({verdict.height:+.3f} nats)"
            self.tell("spike", f"loss of {verdict.channel} {moved}")

    def order(self, name: str, kind: OrderKind, reason: str, request: Request | None = None) -> bool:
        """Gives an order, unless the watcher may only look; whether it waits to be answered."""
        if not self.hands.may_order:
            return False
        return post(self.run_dir, name, kind, reason, request) or not is_answered(self.run_dir, name)
