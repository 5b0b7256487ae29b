"""Finds the positions that each attempt of a run was trained on, from the run's folder.

`metrics.jsonl` has the samples consumed after each step, and the phase. The skip windows of an attempt are those of the
last rollback before it. Together they give the positions. The borders between phases and the journal of the order give
the history under which the samples were drawn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.data.order.cursor import Cursor, outside
from harness.errors import DataError
from harness.run.checkpoints.entries import Checkpoint, entries_in, newest_first
from harness.run.event_types import RolledBack
from harness.run.events import read_events
from harness.run.order_changes import History, PhaseBegun
from harness.run.order_file import read_journal
from harness.run.paths import RunDir
from harness.run.records import StepRecord, whole_records
from harness.text import listed

Windows = tuple[tuple[int, int], ...]
_MOST_SAMPLES = 2**24
"""Largest number of samples in a step. The largest published batches have 2**14."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Samples that one attempt trained on in one phase, one after the other."""

    attempt: int
    phase: int
    first_consumed: int
    """Samples consumed before the first of them."""
    last_consumed: int
    """And after the last."""
    skip_windows: Windows
    history: History
    """By which they were drawn."""
    is_kept: bool = True
    """The current weights were trained on them: no rollback has abandoned them."""

    def ranges(self) -> list[tuple[int, int]]:
        """Return their positions as half-open intervals."""
        start, stop = place_of(self.first_consumed, self.skip_windows), self.end
        return outside(start, stop, self.skip_windows)

    @property
    def end(self) -> int:
        """Position behind the last of them."""
        return place_of(self.last_consumed - 1, self.skip_windows) + 1


def place_of(number: int, skip_windows: Windows) -> int:
    """Return the position of the sample with this number among those that are not skipped."""
    position = number
    for start, stop in skip_windows:
        if position < start:
            break
        position += stop - start
    return position


def trained_by(run_dir: RunDir, phases: Sequence[str], skip_windows: Windows) -> list[Trained]:
    """Return everything that each attempt of a run was trained on, given its phases and the windows of its config.

    Raises:
        DataError: Records are missing.
    """
    windows, journal = windows_by_attempt(run_dir, skip_windows), read_journal(run_dir.order)
    try:
        return follow(whole_records(run_dir.metrics), phases, windows, journal, are_windows_complete=True)
    except OSError as error:
        raise DataError(f"{run_dir.metrics} cannot be read: {error.strerror}.") from None


def follow(
    records: Iterable[StepRecord],
    phases: Sequence[str],
    windows: Mapping[int, Windows],
    journal: History,
    *,
    are_windows_complete: bool = False,
) -> list[Trained]:
    """Return everything that each attempt was trained on, from the records in the order of their writing (pure).

    `are_windows_complete` if positions that do not fit the windows are an error: the result then rests on the windows.

    Raises:
        DataError: Records are missing, or do not fit each other.
    """
    line: list[Trained] = []
    abandoned: list[Trained] = []
    consumed = array("q", [0])  # by step: millions of numbers
    last_step, attempt = 0, 0
    for record in (each for each in records if each.step):  # step 0: the evaluation before the first step
        if record.step != last_step + 1 or record.attempt != attempt:
            if not 1 <= record.step <= len(consumed):
                raise DataError(
                    f"metrics.jsonl has no record of step {record.step - 1}, which led to step {record.step}, so the "
                    f"samples of step {record.step} are not known. Restore metrics.jsonl."
                )
            line, behind = _split_at(line, consumed[record.step - 1])
            abandoned += behind
        before, last_step, attempt = consumed[record.step - 1], record.step, record.attempt
        consumed[record.step : record.step + 1] = array("q", [record.consumed_samples])
        of_attempt = windows[max((each for each in windows if each <= record.attempt), default=0)]
        _require_possible(record, before)
        if are_windows_complete and record.positions:
            _require_same_positions(record, before, of_attempt)
        phase = _phase_number(record, phases)
        if line and (line[-1].attempt, line[-1].phase, line[-1].last_consumed) == (record.attempt, phase, before):
            line[-1] = replace(line[-1], last_consumed=record.consumed_samples)
            continue
        line.append(
            Trained(
                attempt=record.attempt,
                phase=phase,
                first_consumed=before,
                last_consumed=record.consumed_samples,
                skip_windows=of_attempt,
                history=_history(line, phase, before, journal),
            )
        )
    return sorted([*line, *abandoned], key=lambda each: (each.attempt, each.first_consumed))


def _phase_number(record: StepRecord, phases: Sequence[str]) -> int:
    try:
        return phases.index(record.phase)
    except ValueError:
        raise DataError(
            f"metrics.jsonl says that step {record.step} was trained in phase {record.phase[:100]!r}, and config.yaml "
            f"has the phases {listed(phases)}. Restore the one that was changed."
        ) from None


def _require_possible(record: StepRecord, before: int) -> None:
    """Refuse a record whose numbers of samples do not fit each other: one of them is damaged.

    Raises:
        DataError: They do not.
    """
    num_samples = record.consumed_samples - before
    recorded = sum(stop - start for start, stop in record.positions)
    if not 0 < num_samples <= _MOST_SAMPLES or (record.positions and recorded != num_samples):
        said = f", and names {recorded:,} positions" if record.positions else ""
        raise DataError(
            f"metrics.jsonl has {before:,} samples before step {record.step} and {record.consumed_samples:,} after it"
            f"{said}, which no step can do. Restore metrics.jsonl."
        )


def _require_same_positions(record: StepRecord, before: int, windows: Windows) -> None:
    """Refuse a record whose positions are not those that follow from the consumed samples and the skip windows.

    Raises:
        DataError: They are not.
    """
    ends = record.positions[0][0], record.positions[-1][1]
    by_count = place_of(before, windows), place_of(record.consumed_samples - 1, windows) + 1
    if ends != by_count:
        raise DataError(
            f"metrics.jsonl says that step {record.step} was trained on positions {ends[0]:,} to {ends[1]:,}, but by "
            f"its consumed samples and the skip windows of the run they are {by_count[0]:,} to {by_count[1]:,}. "
            "Restore what was changed: metrics.jsonl, events.jsonl, or data.skip_windows in config.yaml."
        )


def windows_by_attempt(run_dir: RunDir, skip_windows: Windows) -> dict[int, Windows]:
    """Return the windows that each attempt skips, by the attempts that began with a rollback, and those of attempt 0.

    Checkpoints and events both know of rollbacks: checkpoints are pruned, and events may be lost on a full disk.
    """
    found = {0: Cursor(skip_windows=skip_windows).skip_windows}
    for entry in entries_in(run_dir.checkpoints):
        if isinstance(entry, Checkpoint) and entry.manifest.rollback is not None:
            windows = Cursor.from_json(entry.manifest.cursor).skip_windows
            found[entry.manifest.rollback.attempt] = Cursor(skip_windows=(*windows, *skip_windows)).skip_windows
    for event in read_events(run_dir.events):
        if isinstance(event, RolledBack):
            found[event.attempt] = Cursor(skip_windows=(*event.skip_windows, *skip_windows)).skip_windows
    return found


def recorded_data(run_dir: RunDir) -> Mapping[str, Any] | None:
    """Return the fingerprint of the data in the newest checkpoint; None if there is none yet."""
    newest = (entry for entry in newest_first(entries_in(run_dir.checkpoints)) if isinstance(entry, Checkpoint))
    found = (entry.manifest.fingerprint.get("data") for entry in newest)
    return next((data for data in found if isinstance(data, dict)), None)


def _history(line: Sequence[Trained], phase: int, consumed: int, journal: History) -> History:
    """Return the history under which the samples of a piece are drawn, if they belong to this phase."""
    cursor = Cursor(history=tuple(each for each in line[-1].history if isinstance(each, PhaseBegun)) if line else ())
    position = line[-1].end if line else 0
    if cursor.phase != phase:
        begun = PhaseBegun(position=position, phase=phase, consumed_samples=consumed)
        cursor = replace(cursor, history=(*cursor.history, begun))
    return cursor.with_changes(journal).history


def _split_at(line: Sequence[Trained], consumed: int) -> tuple[list[Trained], list[Trained]]:
    """Split a line at a number of samples: the part up to it, and the part behind it."""
    kept = [
        replace(each, last_consumed=min(each.last_consumed, consumed))
        for each in line
        if each.first_consumed < consumed
    ]
    behind = [
        replace(each, first_consumed=max(each.first_consumed, consumed), is_kept=False)
        for each in line
        if each.last_consumed > consumed
    ]
    return kept, behind
