"""Reading and writing the events of a run: `events.jsonl`, one JSON object a line.

`time` (seconds since 1970) and `kind` are always there, `attempt` and `step` in all but `launch-ended`. Trainer,
watcher and launcher append to the file, each whole lines in one write. Readers pass over a line that a crash or a full
disk cut off, and a kind that this version does not know.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from harness.json_text import parse_json
from harness.run.event_base import Event
from harness.run.event_types import AnyEvent
from harness.run.files import append_lines
from harness.run.lines import last_lines, lines_backwards, lines_of, open_lines

_TYPES: dict[str, type[Event]] = {
    kind: event for event in get_args(AnyEvent) for kind in get_args(event.model_fields["kind"].annotation)
}
_BEGIN = re.compile(rb'\{"time": [0-9.e+-]{1,32}, "kind": "([a-z-]{1,64})"')
_TAIL_BYTES = 4 * 1024**2


def event_line(event: Event, now: float) -> str:
    """Return the event as it stands in `events.jsonl`, without a line end. Numbers that are not finite are null."""
    dated = event.model_copy(update={"time": round(now, 3)})
    return json.dumps(parse_json(dated.model_dump_json(by_alias=True, exclude_none=True)))


def kinds_of(*events: type[Event]) -> frozenset[str]:
    """Return the kinds of events of these types."""
    return frozenset(kind for kind, event in _TYPES.items() if event in events)


def parse_event(line: bytes, kinds: Collection[str] | None = None) -> AnyEvent | None:
    """Return the event in a line, or None if the line is cut off or its kind is unknown to this version.

    With `kinds`, an event of another kind is None too, and is not parsed: that costs a hundredth of the time.
    """
    if kinds is not None and (begun := _BEGIN.match(line)) and begun[1].decode() not in kinds:
        return None
    try:
        fields = parse_json(line)
        parsed = _TYPES[fields["kind"]].model_validate(fields)
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
        return None
    assert isinstance(parsed, AnyEvent), "the types are those of the union"
    return parsed if kinds is None or parsed.kind in kinds else None


def append_event(path: Path, event: Event, clock: Callable[[], float] = time.time) -> None:
    """Append an event to a run's `events.jsonl`.

    Raises:
        OSError: From the disk.
    """
    append_lines(path, [event_line(event, clock())])


def read_events(path: Path, *, after_bytes: int = 0, kinds: Collection[str] | None = None) -> Iterator[AnyEvent]:
    """Yield the events of a file, oldest first, from byte `after_bytes` on. A file that cannot be read has none.

    `kinds` as in `parse_event`.
    """
    try:
        with open_lines(path) as file:
            file.seek(after_bytes)
            for line in lines_of(file):
                if (event := parse_event(line, kinds)) is not None:
                    yield event
    except OSError:
        return


def last_event(path: Path, kinds: Collection[str]) -> AnyEvent | None:
    """Return the last event of one of these kinds, or None. Reads only as much of the end as necessary."""
    try:
        found = (parse_event(line, kinds) for line in lines_backwards(path))
        return next((event for event in found if event is not None), None)
    except OSError:
        return None


def last_events(path: Path) -> list[AnyEvent]:
    """Return the events in the last megabytes of a file, oldest first. A file that cannot be read has none."""
    return [event for line in last_lines(path, _TAIL_BYTES) if (event := parse_event(line)) is not None]
