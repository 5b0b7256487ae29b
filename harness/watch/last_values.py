"""The last value of every metric of a run. Many are not in every record: held-out losses, times of saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.run import metric_names as names
from harness.run.lines import lines_backwards
from harness.run.records import StepRecord, from_json_line

MOST_LINES = 20_000
"""Lines at the end of `metrics.jsonl` in which last values are searched for: they take about a second."""
_OF_THE_LAST_RECORD = frozenset({names.FAILED_SAVES})
"""Metrics whose absence says something: that there was nothing to count."""
_OF_THE_PHASE = "train/"
"""Beginning of the names of metrics that end with the phase: the next one may lack their channel."""


@dataclass(frozen=True)
class Seen:
    """Value of a metric, and the step that it is of."""

    value: float
    step: int


@dataclass(frozen=True)
class LastValues:
    """The last record of a run, and the last value of every metric on the way to it."""

    record: StepRecord
    metrics: Mapping[str, Seen]

    def step_of(self, prefix: str) -> int | None:
        """Return the last step that has a metric whose name begins so."""
        return max((seen.step for name, seen in self.metrics.items() if name.startswith(prefix)), default=None)


def is_after(known: LastValues | None, record: StepRecord) -> bool:
    """Return whether a record is later than those known. Others were superseded, or are known."""
    return known is None or (record.attempt, record.step) > (known.record.attempt, known.record.step)


def with_record(known: LastValues | None, record: StepRecord) -> LastValues:
    """Return the values with those of a later record. What it rewound is forgotten (pure)."""
    earlier = {} if known is None else {name: seen for name, seen in known.metrics.items() if seen.step < record.step}
    if known is not None and known.record.phase != record.phase:
        earlier = {name: seen for name, seen in earlier.items() if not name.startswith(_OF_THE_PHASE)}
    kept = {name: seen for name, seen in earlier.items() if name not in _OF_THE_LAST_RECORD}
    return LastValues(record, {**kept, **{name: Seen(value, record.step) for name, value in record.values.items()}})


def recalled(path: Path, most_lines: int = MOST_LINES) -> LastValues | None:
    """Return the last values in the last lines of a `metrics.jsonl`; None if it has no record, or is unreadable."""
    last: StepRecord | None = None
    metrics: dict[str, Seen] = {}
    try:
        for record in _effective_backwards(islice(lines_backwards(path), most_lines)):
            last = last or record
            for name, value in record.values.items():
                is_over = name in _OF_THE_LAST_RECORD and record is not last
                if not (is_over or (name.startswith(_OF_THE_PHASE) and record.phase != last.phase)):
                    metrics.setdefault(name, Seen(value, record.step))
    except OSError:
        return None
    return None if last is None else LastValues(last, metrics)


def _effective_backwards(lines: Iterable[bytes]) -> Iterator[StepRecord]:
    """Yield the records that no later one has superseded, the last one first."""
    before: StepRecord | None = None
    for line in lines:
        record = from_json_line(line)
        if record is not None and (before is None or (record.attempt <= before.attempt and record.step < before.step)):
            before = record
            yield record
