"""Sets of whole numbers as rising, disjoint half-open intervals: which tokens of a long row are meant.

An `Intervals` is int64 [n, 2]; row i is [start, stop) with start < stop, and no interval touches the next.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Intervals = npt.NDArray[np.int64]


def whole(length: int) -> Intervals:
    """0 … length - 1."""
    return np.array([[0, length]] if length else [], dtype=np.int64).reshape(-1, 2)


def total(intervals: Intervals) -> int:
    """How many numbers there are."""
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def merged(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> Intervals:
    """The union of intervals that rise and are disjoint, but may touch or be empty."""
    kept = stops > starts
    starts, stops = starts[kept], stops[kept]
    begins = np.ones(len(starts), dtype=np.bool_)
    begins[1:] = starts[1:] > stops[:-1]
    ends = np.ones(len(starts), dtype=np.bool_)
    ends[:-1] = begins[1:]
    return np.stack((starts[begins], stops[ends]), axis=1)


def without(intervals: Intervals, removed: Intervals) -> Intervals:
    """The numbers of the first that are not in the second."""
    borders = np.concatenate((intervals.ravel(), removed.ravel()))
    steps = np.concatenate((np.tile([1, -1], len(intervals)), np.tile([-2, 2], len(removed))))
    order = np.argsort(borders, kind="stable")
    borders, level = borders[order], np.cumsum(steps[order])
    inside = np.flatnonzero(level[:-1] == 1)  # in the first (1) and not in the second (-2)
    return merged(borders[inside], borders[inside + 1])


def places_in(intervals: Intervals, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Intervals:
    """The numbers that stand at places [start, stop) when the intervals are laid end to end; rising and disjoint."""
    ends = np.cumsum(intervals[:, 1] - intervals[:, 0])
    begins = ends - (intervals[:, 1] - intervals[:, 0])
    cuts = np.unique(np.concatenate((begins, start, stop)))
    cuts = cuts[cuts < (ends[-1] if len(ends) else 0)]
    following = np.append(cuts[1:], ends[-1:])
    chosen = np.searchsorted(start, cuts, side="right") > np.searchsorted(stop, cuts, side="right")
    pieces, shift = cuts[chosen], following[chosen] - cuts[chosen]
    owner = np.searchsorted(ends, pieces, side="right")
    found = intervals[owner, 0] + pieces - begins[owner]
    return merged(found, found + shift)
