"""The record of one step and its form in `metrics.jsonl`, written and read.

A line is one JSON object. `attempt`, `step`, `time`, `phase`, `consumed_samples`, `consumed_tokens` and
`data/batch_hash` (16 hex digits) are always there, `positions` (half-open ranges in the sample order) in all but the
lines of earlier versions; every other key is a metric. A number that is NaN or infinite is
written as null, and the line then also has `"nonfinite": true`. Numbers have as many digits as it takes to read the
same float back, so that equal losses are equal lines.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.json_text import JsonError, parse_json
from harness.run import metric_names as names
from harness.run.field_types import is_count, is_moment, is_number
from harness.run.lines import lines_backwards, lines_in, lines_of, offset_of_last, open_lines

_NONFINITE = "nonfinite"
_POSITIONS = "positions"
_KEY = re.compile(rb'\{"attempt": ([0-9]{1,18}), "step": ([0-9]{1,18}), ')
_SUPERSEDED = -1
_HASH = re.compile(r"[0-9a-f]{1,16}")


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Everything recorded about one step, as plain numbers."""

    attempt: int
    step: int
    time: float
    """Seconds since 1970."""
    phase: str
    consumed_samples: int
    consumed_tokens: int
    batch_hash: int
    """Unsigned, 64 bits."""
    positions: tuple[tuple[int, int], ...] = ()
    """Positions of the step's samples in the run's sample order, as rising half-open ranges. Empty in lines of versions
    that did not write them."""
    experts_by_layer: tuple[tuple[float, float], ...] = ()
    """Largest load and dead share of each layer with experts (`harness.run.metric_names.EXPERTS_BY_LAYER`)."""
    values: Mapping[str, float]
    """Metrics by name (`harness.run.metric_names`). Unknown ones are absent."""


_COUNTS = ("attempt", "step", "consumed_samples", "consumed_tokens")
_NOT_VALUES = {names.BATCH_HASH, names.EXPERTS_BY_LAYER, _NONFINITE, *StepRecord.__dataclass_fields__}


def to_json_line(record: StepRecord) -> str:
    """Return the record as a line, with its line end."""
    fields: dict[str, object] = {
        "attempt": record.attempt,
        "step": record.step,
        "time": round(record.time, 3),
        "phase": record.phase,
        "consumed_samples": record.consumed_samples,
        "consumed_tokens": record.consumed_tokens,
    }
    if record.positions:
        fields[_POSITIONS] = record.positions
    fields |= {name: value if math.isfinite(value) else None for name, value in record.values.items()}
    if record.experts_by_layer:
        fields[names.EXPERTS_BY_LAYER] = record.experts_by_layer
    fields[names.BATCH_HASH] = f"{record.batch_hash:016x}"
    if not all(map(math.isfinite, record.values.values())):
        fields[_NONFINITE] = True
    return json.dumps(fields, allow_nan=False) + "\n"


def from_json_line(line: str | bytes) -> StepRecord | None:
    """Return the record in a line, or None if the line is incomplete, or a field is not what a record can have.

    A null reads as NaN.
    """
    try:
        fields = parse_json(line)
    except JsonError:
        return None
    return _record_of(fields) if isinstance(fields, dict) else None


def _record_of(fields: Mapping[str, Any]) -> StepRecord | None:
    """Return the record with these fields; None if one is missing, or no record has it so."""
    counts: dict[str, Any] = {name: fields.get(name) for name in _COUNTS}
    phase, digest, positions = fields.get("phase"), fields.get(names.BATCH_HASH), fields.get(_POSITIONS, [])
    by_layer = fields.get(names.EXPERTS_BY_LAYER, [])
    values = {name: math.nan if value is None else value for name, value in fields.items() if name not in _NOT_VALUES}
    if not (
        all(map(is_count, counts.values()))
        and is_moment(fields.get("time"))
        and isinstance(phase, str)
        and isinstance(digest, str)
        and _HASH.fullmatch(digest)
        and _are_ranges(positions)
        and _are_pairs(by_layer)
        and all(fields[name] is None or is_number(fields[name]) for name in values)
    ):
        return None
    return StepRecord(
        **counts,
        time=float(fields["time"]),
        phase=phase,
        batch_hash=int(digest, 16),
        positions=tuple((start, stop) for start, stop in positions),
        experts_by_layer=tuple((max_load, dead_share) for max_load, dead_share in by_layer),
        values=values,
    )


def _are_ranges(positions: object) -> bool:
    """Return whether these are half-open ranges that rise."""
    if not isinstance(positions, list) or not all(isinstance(each, list) and len(each) == 2 for each in positions):
        return False
    ends = [end for each in positions for end in each]
    return all(map(is_count, ends)) and ends == sorted(ends)


def _are_pairs(by_layer: object) -> bool:
    """Return whether these are pairs of numbers."""
    return isinstance(by_layer, list) and all(
        isinstance(each, list) and len(each) == 2 and all(map(is_number, each)) for each in by_layer
    )


def whole_records(path: Path) -> Iterator[StepRecord]:
    """Yield every record of a `metrics.jsonl` as written, also of steps that were repeated later.

    Lines that cannot be read are passed over. A missing file has no records.
    """
    yield from (record for line in lines_in(path) if (record := from_json_line(line)) is not None)


def last_records(path: Path, num_lines: int) -> Iterator[StepRecord]:
    """Yield the records in the last lines of a `metrics.jsonl`, as `whole_records` does.

    Raises:
        OSError: The file cannot be read.
    """
    with suppress(FileNotFoundError), open_lines(path) as file:
        file.seek(offset_of_last(path, num_lines))
        yield from (record for line in lines_of(file) if (record := from_json_line(line)) is not None)


def read_records(path: Path) -> Iterator[StepRecord]:
    """Yield the effective records of a `metrics.jsonl` by rising step, with all rewinds taken into account.

    A line counts unless a later line has the same or an earlier step (training was rewound to before it) or an earlier
    line has a later attempt. Lines that cannot be read are passed over and hide no other. The file is read twice and
    never held in memory.
    """
    yield from _records_of(path, _effective_steps(path))


def hidden_records(path: Path, *, attempt: int, step: int) -> Iterator[StepRecord]:
    """Yield the records to write again before training goes on from a step of an attempt, by rising step.

    A start in between may have gone on from an earlier step, recorded some steps, and died before it saved a
    checkpoint. It did so because it could not read the later checkpoint at that moment. Its records hide those on the
    way to the later checkpoint. Usually there are none, and then only the end of the file is read. What is appended
    while they are read is not among them.
    """
    if last_key(path, up_to_step=step) in (None, (attempt, step)):
        return
    way, effective = _effective_steps(path, last_attempt=attempt), _effective_steps(path)
    pairs = zip(way, effective, strict=False)
    first = min((own for own, counts in pairs if _SUPERSEDED != own != counts and own <= step), default=None)
    if first is not None:
        yield from _records_of(path, (own if first <= own <= step else _SUPERSEDED for own in way))


def _records_of(path: Path, steps: Iterable[int]) -> Iterator[StepRecord]:
    """Yield the records of the lines whose step is not `_SUPERSEDED`."""
    with open_lines(path) as file:
        for line, step in zip(lines_of(file), steps, strict=False):  # it may have grown since `steps` was made
            if step != _SUPERSEDED and (record := from_json_line(line)) is not None:
                yield record


def _effective_steps(path: Path, *, last_attempt: int | None = None) -> array[int]:
    """Return one number for each line of the file: its step if the line counts, else `_SUPERSEDED`.

    With `last_attempt`, lines of later attempts are treated as if they had never been written.
    """
    steps = array("q")
    last = (0, 0)
    with open_lines(path) as file:
        for line in lines_of(file):
            attempt, step = _key_of(line, last)
            if attempt < last[0] or step == _SUPERSEDED or (last_attempt is not None and attempt > last_attempt):
                steps.append(_SUPERSEDED)
            else:
                steps.append(step)
                last = (attempt, step)
    lowest_later_step = math.inf
    for index in range(len(steps) - 1, -1, -1):
        if steps[index] >= lowest_later_step:
            steps[index] = _SUPERSEDED
        elif steps[index] != _SUPERSEDED:
            lowest_later_step = steps[index]
    return steps


def _key_of(line: bytes, last: tuple[int, int]) -> tuple[int, int]:
    """Return (attempt, step) of a line, given those of the last one that counts. An unreadable line has `_SUPERSEDED`.

    The next step of the attempt hides no line that is not hidden already, so only other lines are parsed.
    """
    if (match := _KEY.match(line)) and (int(match[1]), int(match[2]) - 1) == last:
        return int(match[1]), int(match[2])
    record = from_json_line(line)
    return (record.attempt, record.step) if record else (last[0], _SUPERSEDED)


def last_key(path: Path, *, up_to_step: int | None = None) -> tuple[int, int] | None:
    """Return (attempt, step) of the last line that can be read, or None. Reads only as much of the end as necessary.

    With `up_to_step` it is the last line whose step is not later than that.
    """
    for line in lines_backwards(path):
        if up_to_step is not None and (match := _KEY.match(line)) and int(match[2]) > up_to_step:
            continue
        record = from_json_line(line)
        if record is not None and (up_to_step is None or record.step <= up_to_step):
            return record.attempt, record.step
    return None
