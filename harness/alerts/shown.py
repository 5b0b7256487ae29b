"""A run's alerts as `harness status` and `harness alerts` show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.alerts.book import Book
from harness.alerts.book_file import LostBookError, read_book
from harness.run.paths import RunDir
from harness.text import moment_text


def alerts_shown(run_dir: RunDir) -> dict[str, Any]:
    """Return the open alerts, the number of messages that wait, and how deliveries to each place go, for JSON."""
    try:
        book = read_book(run_dir.alert_book)
    except (OSError, LostBookError) as error:
        return {"problem": f"{run_dir.alert_book} {error}", "open": [], "waiting": 0, "places": {}}
    return {
        "open": [_thing(key, book) for key in book.things],
        "waiting": len(book.waiting),
        "waiting_since": min((message.made for message in book.waiting), default=None),
        "places": {name: health.model_dump(exclude={"not_before"}) for name, health in book.places.items()},
    }


def alert_lines(alerts: Mapping[str, Any], most: int | None = None) -> list[str]:
    """Return what `alerts_shown` has found as lines for people, the newest `most` open alerts."""
    things: Sequence[Mapping[str, Any]] = alerts["open"]
    shown = things if most is None else things[-most:]
    lines = [_line(thing) for thing in shown]
    if len(shown) < len(things):
        lines.insert(0, f"{len(things) - len(shown)} older ones are open, see `harness alerts`")
    for name, health in alerts["places"].items():
        if health["failing_since"] is not None:
            lines.append(f"nothing reaches {name} since {moment_text(health['failing_since'])}: {health['problem']}")
    if alerts["waiting"]:
        since = f" since {moment_text(alerts['waiting_since'])}"
        lines.append(f"{alerts['waiting']} messages wait to be delivered{since}")
    delivered = [health["delivered"] for health in alerts["places"].values() if health["delivered"] is not None]
    if delivered:
        lines.append(f"last delivered at {moment_text(max(delivered))}")
    if "problem" in alerts:
        lines.append(alerts["problem"])
    return lines


def _thing(key: str, book: Book) -> dict[str, Any]:
    thing = book.things[key]
    fields = {"severity": thing.alert.severity, "since": thing.since, "times": thing.times}
    fields |= {"told": thing.is_told, "acknowledged": thing.acknowledged}
    return thing.alert.model_dump(mode="json", exclude_none=True) | fields


def _line(thing: Mapping[str, Any]) -> str:
    times = f", seen {thing['times']} times" if thing["times"] > 1 else ""
    hands = f", acknowledged by {thing['acknowledged']}" if thing["acknowledged"] else ""
    return f"[{thing['severity']}] {thing['key']} since {moment_text(thing['since'])}{times}{hands}: {thing['text']}"
