"""The cursor: a position in the sample order of a run, the windows that it skips, and the changes to the order.

Positions count the samples of the run's global order from 0, across phases. The cursor is all that a resumed run needs:
behind it the order never changes, and ahead of it only by a change that the cursor's history then holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import CheckpointError
from harness.run.order_changes import (
    Change,
    DocumentsQuarantined,
    History,
    KnownHistory,
    PartsAdopted,
    PhaseBegun,
    history_from_json,
    last_adoption_of,
    quarantines_of,
)

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A position in the sample order. Skip windows are half-open intervals of positions, sorted and disjoint."""

    consumed_samples: int = 0
    consumed_tokens: int = 0
    next_position: int = 0
    """Position at which the search for the next sample begins: `consumed_samples` plus the samples skipped so far."""
    skip_windows: tuple[tuple[int, int], ...] = ()
    history: History = ()
    """Changes to the order, by position. After a rollback some may lie ahead of the cursor."""

    @property
    def phase(self) -> int:
        """Number of the plan's phase that the next sample belongs to."""
        return self._known.phase

    @property
    def phase_begun_at(self) -> int:
        """Samples that the run had consumed at the begin of the phase."""
        return self._known.phase_begun_at

    @property
    def _known(self) -> KnownHistory:
        assert isinstance(self.history, KnownHistory), "it is one from the beginning on"
        return self.history

    def __post_init__(self) -> None:
        """Sort the skip windows and merge those that touch."""
        object.__setattr__(self, "skip_windows", _merged(self.skip_windows))
        if not isinstance(self.history, KnownHistory):
            object.__setattr__(self, "history", KnownHistory(self.history))

    def take(self, num_samples: int, seq_length: int) -> tuple[Positions, Cursor]:
        """Return the positions of the next samples, int64 [num_samples], and the cursor behind them."""
        pieces: list[Positions] = []
        missing, start = num_samples, self.next_position
        # Take what lies before each window that is still ahead, and continue behind the window.
        for skip_start, skip_stop in self.skip_windows:
            if missing and start < skip_stop:
                pieces.append(np.arange(start, max(start, min(start + missing, skip_start)), dtype=np.int64))
                missing -= len(pieces[-1])
                start = skip_stop
        if missing:
            pieces.append(np.arange(start, start + missing, dtype=np.int64))
        positions = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
        behind = replace(
            self,
            consumed_samples=self.consumed_samples + num_samples,
            consumed_tokens=self.consumed_tokens + num_samples * seq_length,
            next_position=int(positions[-1]) + 1 if num_samples else self.next_position,
        )
        return positions, behind

    def passed_ranges(self) -> list[tuple[int, int]]:
        """Return the positions behind the cursor that were not skipped, as half-open ranges."""
        return outside(0, self.next_position, self.skip_windows)

    def with_skip_window(self, start: int, stop: int) -> Cursor:
        """Return the cursor with positions `start … stop - 1` skipped from here on."""
        return replace(self, skip_windows=(*self.skip_windows, (start, stop)))

    def begin_phase(self, phase: int) -> Cursor:
        """Return the cursor with another phase of the plan from here on."""
        begun = PhaseBegun(position=self.next_position, phase=phase, consumed_samples=self.consumed_samples)
        return self._with(begun)

    def adopt(self, parts: Mapping[str, tuple[int, str]]) -> Cursor:
        """Return the cursor with further parts of channels in use from here on.

        After a kill or a rollback, the history may adopt earlier parts of a channel only ahead of the cursor. Later
        parts are then adopted at the same position. A number of parts that is in use already is not entered again.

        Args:
            parts: For each channel, the number of its first parts that are used, and their digest.
        """
        cursor, used = self, self._known.num_parts
        for channel, (num_parts, digest) in parts.items():
            if num_parts != used.get(channel, 0):
                before = last_adoption_of(self.history, channel)
                position = max(self.next_position, before.position if before is not None else 0)
                entry = PartsAdopted(position=position, channel=channel, num_parts=num_parts, digest=digest)
                cursor = cursor._with(entry)
        return cursor

    def quarantine(self, channel: str, part: str, tokens: Mapping[int, int], *, lift: bool = False) -> Cursor:
        """Return the cursor with documents of a part in quarantine from here on, or released from it.

        `tokens` has the length of each document, by its number in the part. With `lift` the documents are released,
        also from quarantines that begin ahead of the cursor.
        """
        positions = {self.next_position}
        if lift:
            positions |= {each.position for each in quarantines_of(self.history, channel, part, set(tokens))}
        cursor = self
        for position in sorted(each for each in positions if each >= self.next_position):
            entry = DocumentsQuarantined(
                position=position,
                channel=channel,
                part=part,
                documents=tuple(sorted(tokens)),
                tokens=tuple(tokens[document] for document in sorted(tokens)),
                is_lifted=lift,
            )
            cursor = cursor._with(entry)
        return cursor

    def with_changes(self, changes: Iterable[Change]) -> Cursor:
        """Return the cursor with further changes at their positions, each behind the changes that are there already.

        A run that repeats positions, after a kill or a rollback, thus finds the same order there as before. Phases are
        left out, because their begin depends on the number of samples that are skipped.
        """
        known = set(self.history)
        further = [each for each in changes if not isinstance(each, PhaseBegun) and each not in known]
        if not further:
            return self
        return replace(self, history=tuple(sorted((*self.history, *further), key=lambda each: each.position)))

    def passed(self, history: History) -> Cursor:
        """Return the cursor with only those changes of a history whose positions it has passed or reached."""
        count = bisect_right(history, self.next_position, key=_position)
        if count == len(self.history) and history[:count] == self.history:
            return self
        return replace(self, history=history[:count])

    def _with(self, change: Change) -> Cursor:
        return replace(self, history=self._known.with_change(change))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for a checkpoint's manifest."""
        return {
            "consumed_samples": self.consumed_samples,
            "consumed_tokens": self.consumed_tokens,
            "next_position": self.next_position,
            "skip_windows": [list(window) for window in self.skip_windows],
            "history": list(self._known.as_json),
        }

    @staticmethod
    def from_json(values: Any) -> Cursor:  # noqa: ANN401  whatever a file held
        """Return the cursor that `to_json` wrote. Early versions wrote no history.

        Raises:
            CheckpointError: The values are no cursor.
        """
        try:
            values = {"history": [], **values}
            windows = tuple((start, stop) for start, stop in values["skip_windows"])
            cursor = Cursor(**values | {"skip_windows": windows, "history": history_from_json(values["history"])})
            if cursor.to_json() != values or not _plausible(cursor):
                raise ValueError("they are not what such a cursor writes")
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"the cursor of the checkpoint is unreadable: {str(values)[:200]}. Expected consumed_samples, "
                "consumed_tokens and next_position as whole numbers and skip_windows as sorted pairs. "
                "Resume from another checkpoint."
            ) from error
        return cursor


def _position(change: Change) -> int:
    return change.position


def outside(start: int, stop: int, windows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the positions `start … stop - 1` outside of windows that rise, as half-open ranges."""
    ranges = []
    for skip_start, skip_stop in windows:
        if start < min(stop, skip_start):
            ranges.append((start, min(stop, skip_start)))
        start = max(start, skip_stop)
    return [*ranges, (start, stop)] if start < stop else ranges


def ranges_of(positions: Positions) -> tuple[tuple[int, int], ...]:
    """Return rising positions, [B], as half-open ranges: one for each stretch without a gap."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1  # [num_ranges - 1], where a stretch begins
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(positions, breaks) if len(part))


def rank_positions(positions: Positions, *, dp_rank: int, dp_size: int, micro_batch_size: int) -> Positions:
    """Return the positions of one data-parallel rank's samples, [num_microbatches, micro_batch_size].

    Micro-batch m of rank r is the samples m·(micro_batch_size·dp_size) + r·micro_batch_size + i of the global batch:
    Megatron's order, in which the global batch does not depend on the layout.

    Raises:
        ValueError: The number of samples is not divisible by dp_size * micro_batch_size.
    """
    if len(positions) % (dp_size * micro_batch_size):
        raise ValueError(f"{len(positions)} samples cannot be cut into {dp_size} ranks x {micro_batch_size} samples")
    return positions.reshape(-1, dp_size, micro_batch_size)[:, dp_rank]


def _merged(windows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(windows):
        if start < 0 or stop < start:
            raise ValueError(f"a skip window is [start, stop) with 0 <= start <= stop, not [{start}, {stop})")
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif start < stop:
            merged.append((start, stop))
    return tuple(merged)


_MOST_POSITION = 2**53
"""Positions beyond it are damage: no order of samples is so long."""


def _plausible(cursor: Cursor) -> bool:
    counts = (cursor.consumed_samples, cursor.consumed_tokens, cursor.next_position)
    borders = (border for window in cursor.skip_windows for border in window)
    return (
        all(type(n) is int and 0 <= n <= _MOST_POSITION for n in (*counts, *borders))
        and cursor.next_position >= cursor.consumed_samples
    )
