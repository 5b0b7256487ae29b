"""Finds the positions that each attempt of a run was trained on, from the run's folder.

`metrics.jsonl` has the samples consumed after each step, and the phase. The skip windows of an attempt are those of the
last rollback before it. Together they give the positions. The borders between phases and the journal of the order give
the history under which the samples were drawn.
"""

from __future__ import annotations

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

Windows = tuple[tuple[int, int], ...]


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
    return follow(
        whole_records(run_dir.metrics), phases, windows_by_attempt(run_dir, skip_windows), read_journal(run_dir.order)
    )


def follow(
    records: Iterable[StepRecord], phases: Sequence[str], windows: Mapping[int, Windows], journal: History
) -> list[Trained]:
    """Return everything that each attempt was trained on, from the records in the order of their writing (pure)."""
    line: list[Trained] = []
    abandoned: list[Trained] = []
    consumed = {0: 0}
    last_step, attempt = 0, 0
    for record in records:
        if record.step != last_step + 1 or record.attempt != attempt:
            if record.step - 1 not in consumed:
                raise DataError(
                    f"metrics.jsonl has no record of step {record.step - 1}, which led to step {record.step}, so the "
                    f"samples of step {record.step} are not known. Restore metrics.jsonl."
                )
            line, behind = _split_at(line, consumed[record.step - 1])
            abandoned += behind
        before, last_step, attempt = consumed[record.step - 1], record.step, record.attempt
        consumed[record.step] = record.consumed_samples
        phase = phases.index(record.phase)
        if line and (line[-1].attempt, line[-1].phase, line[-1].last_consumed) == (record.attempt, phase, before):
            line[-1] = replace(line[-1], last_consumed=record.consumed_samples)
            continue
        of_attempt = windows[max((each for each in windows if each <= record.attempt), default=0)]
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
