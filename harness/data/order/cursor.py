"""The cursor: how far a run has come in its sample order, which samples it jumps over, and what changed the order.

Positions count the samples of the run's global order from 0, across phases. All of resume is in here: behind the
cursor the order never moves, and ahead of it only by a change that the cursor's history then holds.
"""

from __future__ import annotations

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
    PartsAdopted,
    PhaseBegun,
    adoptions_of,
    history_from_json,
    num_parts_of,
    phase_of,
    quarantines_of,
)

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the sample order. Skip windows are half-open intervals of positions, sorted and disjoint."""

    consumed_samples: int = 0
    consumed_tokens: int = 0
    next_position: int = 0
    """Where the search for the next sample begins. Exceeds `consumed_samples` by the samples jumped over so far."""
    skip_windows: tuple[tuple[int, int], ...] = ()
    history: History = ()
    """What changed the order. After a rollback, changes whose position is yet to come are among them."""

    @property
    def phase(self) -> int:
        """Number of the plan's phase that the next sample belongs to."""
        return phase_of(self.history)

    @property
    def phase_begun_at(self) -> int:
        """Samples that the run had consumed when the phase began."""
        begun = (change.consumed_samples for change in reversed(self.history) if isinstance(change, PhaseBegun))
        return next(begun, 0)

    def __post_init__(self) -> None:
        """Bring the windows into their one form."""
        object.__setattr__(self, "skip_windows", _merged(self.skip_windows))

    def take(self, num_samples: int, seq_length: int) -> tuple[Positions, Cursor]:
        """Positions of the next samples, int64 [num_samples], and the cursor behind them."""
        stretches: list[Positions] = []
        missing, start = num_samples, self.next_position
        for skip_start, skip_stop in self.skip_windows:
            if missing and start < skip_stop:
                stretches.append(np.arange(start, max(start, min(start + missing, skip_start)), dtype=np.int64))
                missing -= len(stretches[-1])
                start = skip_stop
        if missing:
            stretches.append(np.arange(start, start + missing, dtype=np.int64))
        positions = np.concatenate(stretches) if stretches else np.empty(0, dtype=np.int64)
        behind = replace(
            self,
            consumed_samples=self.consumed_samples + num_samples,
            consumed_tokens=self.consumed_tokens + num_samples * seq_length,
            next_position=int(positions[-1]) + 1 if num_samples else self.next_position,
        )
        return positions, behind

    def with_skip_window(self, start: int, stop: int) -> Cursor:
        """The same place, with the samples at positions `start … stop - 1` never to be trained on from here on."""
        return replace(self, skip_windows=(*self.skip_windows, (start, stop)))

    def begin_phase(self, phase: int) -> Cursor:
        """The same place, from which on samples are those of another phase of the plan."""
        begun = PhaseBegun(position=self.next_position, phase=phase, consumed_samples=self.consumed_samples)
        return self._with(begun)

    def adopt(self, parts: Mapping[str, tuple[int, str]]) -> Cursor:
        """The same place, from which on the first parts of channels are used: their number and their digest.

        What is used already is not entered again. Behind a kill or a rollback, parts may be known that are adopted only
        further on: what comes after them is adopted there too.
        """
        cursor, used = self, num_parts_of(self.history)
        for channel, (num_parts, digest) in parts.items():
            if num_parts != used.get(channel, 0):
                before = (each.position for each in adoptions_of(self.history, channel))
                position = max((self.next_position, *before))
                entry = PartsAdopted(position=position, channel=channel, num_parts=num_parts, digest=digest)
                cursor = cursor._with(entry)
        return cursor

    def quarantine(self, channel: str, part: str, tokens: Mapping[int, int], *, lift: bool = False) -> Cursor:
        """The same place, from which on documents of a part are in no sample, or, lifted, may be again.

        Args:
            channel: Name of the channel.
            part: Name of the part.
            tokens: Length of each document, by its number in the part.
            lift: Whether an earlier quarantine is taken back, and those that come only further on with it.
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

    def knowing(self, changes: Iterable[Change]) -> Cursor:
        """The same place with further changes at the positions that they name, behind those known of there.

        So an order that was changed on the way is the same when the way is gone again. Phases are not taken over: where
        they begin depends on how many samples are skipped.
        """
        further = [each for each in changes if not isinstance(each, PhaseBegun) and each not in self.history]
        return replace(self, history=tuple(sorted((*self.history, *further), key=lambda each: each.position)))

    def passed(self, history: History) -> Cursor:
        """The same place with those changes of a history that it has passed or reached."""
        return replace(self, history=tuple(each for each in history if each.position <= self.next_position))

    def _with(self, change: Change) -> Cursor:
        return replace(self, history=tuple(sorted((*self.history, change), key=lambda each: each.position)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for a checkpoint's manifest."""
        return {
            "consumed_samples": self.consumed_samples,
            "consumed_tokens": self.consumed_tokens,
            "next_position": self.next_position,
            "skip_windows": [list(window) for window in self.skip_windows],
            "history": [change.to_json() for change in self.history],
        }

    @staticmethod
    def from_json(values: Any) -> Cursor:  # noqa: ANN401  whatever a file held
        """The cursor that `to_json` wrote. One without a history is of a version that had none.

        Raises:
            CheckpointError: The values are no cursor.
        """
        try:
            values = {"history": [], **values}
            cursor = Cursor(
                consumed_samples=values["consumed_samples"],
                consumed_tokens=values["consumed_tokens"],
                next_position=values["next_position"],
                skip_windows=tuple((start, stop) for start, stop in values["skip_windows"]),
                history=history_from_json(values["history"]),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(_unreadable(values)) from error
        if cursor.to_json() != values or not _plausible(cursor):
            raise CheckpointError(_unreadable(values))
        return cursor


def ranges_of(positions: Positions) -> tuple[tuple[int, int], ...]:
    """Return rising positions, [B], as half-open ranges: one for each stretch without a gap."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1  # [num_ranges - 1], where a stretch begins
    return tuple((int(part[0]), int(part[-1]) + 1) for part in np.split(positions, breaks) if len(part))


def rank_positions(positions: Positions, *, dp_rank: int, dp_size: int, micro_batch_size: int) -> Positions:
    """The samples of one data-parallel rank, [num_microbatches, micro_batch_size].

    Micro-batch m of rank r is the samples m·(micro_batch_size·dp_size) + r·micro_batch_size + i of the global batch:
    Megatron's order, in which the global batch does not depend on the layout.

    Raises:
        ValueError: The batch cannot be cut evenly.
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


def _plausible(cursor: Cursor) -> bool:
    counts = (cursor.consumed_samples, cursor.consumed_tokens, cursor.next_position)
    borders = (border for window in cursor.skip_windows for border in window)
    return (
        all(type(n) is int and n >= 0 for n in (*counts, *borders)) and cursor.next_position >= cursor.consumed_samples
    )


def _unreadable(values: object) -> str:
    return (
        f"the cursor of the checkpoint is unreadable: {str(values)[:200]}. Expected consumed_samples, "
        "consumed_tokens and next_position as whole numbers and skip_windows as sorted pairs. "
        "Resume from another checkpoint."
    )
