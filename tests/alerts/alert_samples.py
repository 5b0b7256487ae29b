"""Alerts, messages and desks for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.alerts.addresses import Delivery
from harness.alerts.alert import Alert, Kind, Message, RunName
from harness.alerts.book import Place, Rules
from harness.alerts.delivery import Deliver, UndeliveredError
from harness.alerts.desk import AlertDesk
from harness.run.paths import RunDir

RUN = RunName(name="llama", folder="/runs/llama-2")


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Inbox:
    """A place that takes messages, unless it is down."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.is_down = False
        self.retry_after_s = 60.0
        self.tries = 0

    def __call__(self, message: Message) -> str | None:
        self.tries += 1
        if self.is_down:
            raise UndeliveredError("refused", self.retry_after_s)
        self.messages.append(message)
        return f"ref-{message.number}"

    @property
    def told(self) -> list[tuple[str, str]]:
        """Word and text of every message, without what only repeats the place."""
        return [(message.word, message.alert.text) for message in self.messages]


def alert(kind: Kind = Kind.SPIKE, key: str = "a", text: str = "it happened", **fields: Any) -> Alert:
    return Alert(key=key, kind=kind, text=text, **fields)


def message(kind: Kind = Kind.SPIKE, text: str = "it happened", **fields: Any) -> Message:
    values: dict[str, Any] = {"number": 1, "word": "open", "run": RUN, "made": 1.0, "since": 1.0, **fields}
    return Message(alert=alert(kind, text=text), **values)


def desk(
    folder: Path, *places: tuple[Place, Deliver], clock: Clock | None = None, rules: Rules | None = None
) -> AlertDesk:
    run_dir = RunDir(folder / "run")
    run_dir.root.mkdir(exist_ok=True)
    return AlertDesk(
        run_dir=run_dir,
        run=RUN,
        deliveries=[Delivery(place=place, deliver=deliver) for place, deliver in places],
        rules=rules or Rules(),
        clock=clock or Clock(),
    )


def lines(run_dir: RunDir) -> list[dict[str, Any]]:
    """What `alerts.jsonl` has."""
    return [json.loads(line) for line in run_dir.watch_alerts.read_text().splitlines()]
