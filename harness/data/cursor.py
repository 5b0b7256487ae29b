"""The cursor: how far a run has come in its sample order, and which samples it jumps over.

Positions count the samples of the run's global order from 0. All of resume is in here: the order itself never moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import CheckpointError

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A place in the sample order. Skip windows are half-open intervals of positions, sorted and disjoint."""

    consumed_samples: int = 0
    consumed_tokens: int = 0
    next_position: int = 0
    """Where the search for the next sample begins. Exceeds `consumed_samples` by the samples jumped over so far."""
    skip_windows: tuple[tuple[int, int], ...] = ()

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

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for a checkpoint's manifest."""
        return {
            "consumed_samples": self.consumed_samples,
            "consumed_tokens": self.consumed_tokens,
            "next_position": self.next_position,
            "skip_windows": [list(window) for window in self.skip_windows],
        }

    @staticmethod
    def from_json(values: Any) -> Cursor:  # noqa: ANN401  whatever a file held
        """The cursor that `to_json` wrote.

        Raises:
            CheckpointError: The values are no cursor.
        """
        try:
            cursor = Cursor(
                consumed_samples=values["consumed_samples"],
                consumed_tokens=values["consumed_tokens"],
                next_position=values["next_position"],
                skip_windows=tuple((start, stop) for start, stop in values["skip_windows"]),
            )
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(_unreadable(values)) from error
        if cursor.to_json() != values or not _plausible(cursor):
            raise CheckpointError(_unreadable(values))
        return cursor


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
