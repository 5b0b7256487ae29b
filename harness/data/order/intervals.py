"""Sets of whole numbers, stored as intervals: the tokens of a row that are meant.

An `Intervals` is int64 [I, 2]. Its row i is the half-open interval [start, stop) with start < stop. The rows rise, and
no interval touches the next, so every set has exactly one such array.

Shapes: I intervals, J intervals of a second set, B borders.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Intervals = npt.NDArray[np.int64]


def whole(length: int) -> Intervals:
    """Return the numbers 0 … length - 1."""
    return np.array([[0, length]] if length else [], dtype=np.int64).reshape(-1, 2)


def total(intervals: Intervals) -> int:
    """Count the numbers in the set."""
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def merged(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> Intervals:
    """Return the union of intervals [I] that rise and are disjoint, but may touch or be empty."""
    kept = stops > starts
    starts, stops = starts[kept], stops[kept]
    # An interval begins a merged one unless it touches the one before it; the first always does.
    begins = np.ones(len(starts), dtype=np.bool_)  # [I]
    begins[1:] = starts[1:] > stops[:-1]
    # An interval ends a merged one if the next begins another; the last always does.
    ends = np.ones(len(starts), dtype=np.bool_)  # [I]
    ends[:-1] = begins[1:]
    return np.stack((starts[begins], stops[ends]), axis=1)


def without(intervals: Intervals, removed: Intervals) -> Intervals:
    """Return the numbers of the first set [I, 2] that are not in the second [J, 2]."""
    # Sweep over all borders, B = 2 I + 2 J. `level` counts 1 inside the first set and -2 inside the second, so the
    # level is 1 exactly where a number is in the first and not in the second.
    borders = np.concatenate((intervals.ravel(), removed.ravel()))  # [B]
    steps = np.concatenate((np.tile([1, -1], len(intervals)), np.tile([-2, 2], len(removed))))  # [B]
    order = np.argsort(borders, kind="stable")
    borders, level = borders[order], np.cumsum(steps[order])  # [B] each; level[b] holds up to border b + 1
    inside = np.flatnonzero(level[:-1] == 1)
    # Borders at one number give empty intervals, and a border of the second set may cut the first in two that touch.
    return merged(borders[inside], borders[inside + 1])


def places_in(intervals: Intervals, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Intervals:
    """Return the numbers at places [start, stop) of the row that the intervals form when laid end to end.

    Args:
        intervals: The set, [I, 2].
        start: First place of each wanted range, [J]; rising.
        stop: Place behind each range, [J]; ranges are disjoint.
    """
    # Places of the row at which each interval begins and ends, [I] each.
    ends = np.cumsum(intervals[:, 1] - intervals[:, 0])
    begins = ends - (intervals[:, 1] - intervals[:, 0])
    # Cut the row at every border of an interval or of a range: each piece lies in one interval, and in a range or not.
    borders = np.unique(np.concatenate((begins, start, stop)))
    borders = borders[borders < (ends[-1] if len(ends) else 0)]  # [B], where a piece begins
    following = np.append(borders[1:], ends[-1:])  # [B], where it ends
    # A piece is in a range if more ranges have begun than have ended where the piece begins.
    chosen = np.searchsorted(start, borders, side="right") > np.searchsorted(stop, borders, side="right")
    pieces, lengths = borders[chosen], following[chosen] - borders[chosen]
    # Back from places to numbers, by the interval that holds each piece.
    owner = np.searchsorted(ends, pieces, side="right")
    numbers = intervals[owner, 0] + pieces - begins[owner]
    return merged(numbers, numbers + lengths)
