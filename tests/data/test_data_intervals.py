from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order.intervals import Intervals, merged, places_in, total, whole, without

SETS = st.sets(st.integers(0, 60))


def intervals_of(numbers: set[int]) -> Intervals:
    ordered = np.array(sorted(numbers), dtype=np.int64)
    return merged(ordered, ordered + 1)


def numbers_in(intervals: Intervals) -> list[int]:
    return [number for start, stop in intervals.tolist() for number in range(start, stop)]


def is_normal(intervals: Intervals) -> bool:
    borders = intervals.ravel()
    return intervals.shape[1] == 2 and bool(np.all(borders[1:] > borders[:-1]))


@given(SETS)
def test_intervals_hold_their_numbers(numbers: set[int]) -> None:
    intervals = intervals_of(numbers)
    assert is_normal(intervals)
    assert numbers_in(intervals) == sorted(numbers)
    assert total(intervals) == len(numbers)


@given(SETS, SETS)
def test_difference(numbers: set[int], removed: set[int]) -> None:
    left = without(intervals_of(numbers), intervals_of(removed))
    assert is_normal(left)
    assert numbers_in(left) == sorted(numbers - removed)


@given(SETS, SETS)
def test_numbers_at_places(numbers: set[int], places: set[int]) -> None:
    laid_out = sorted(numbers)
    inside = {place for place in places if place < len(laid_out)}
    starts = np.array(sorted(inside), dtype=np.int64)
    found = places_in(intervals_of(numbers), starts, starts + 1)
    assert is_normal(found)
    assert numbers_in(found) == [laid_out[place] for place in sorted(inside)]


def test_whole() -> None:
    assert whole(0).shape == (0, 2)
    assert whole(3).tolist() == [[0, 3]]
