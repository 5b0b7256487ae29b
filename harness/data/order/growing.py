"""Sums of numbers to which more are added: whoever holds the first ones keeps them, and nobody copies them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class GrowingSums:
    """The sum up to each of n numbers, int64. `add` takes the time of what is added."""

    def __init__(self) -> None:
        self._sums = np.zeros(0, dtype=np.int64)  # [capacity]
        self._count = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def add(self, numbers: npt.NDArray[np.int64]) -> None:
        """Add further numbers, [any]."""
        count = self._count + len(numbers)
        if count > len(self._sums):
            grown = np.zeros(max(count, 2 * len(self._sums)), dtype=np.int64)
            grown[: self._count] = self._sums[: self._count]
            self._sums = grown
        before = self._sums[self._count - 1] if self._count else 0
        self._sums[self._count : count] = before + np.cumsum(numbers)
        self._count = count

    def first(self, count: int) -> npt.NDArray[np.int64]:
        """Return the sums up to each of the first numbers, [count], as a view that never changes."""
        view = self._sums[: min(count, self._count)].view()
        view.flags.writeable = False
        return view


def owners_of(firsts: Sequence[int], numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each number the last of the rising `firsts` that is not above it, as its place there, [n].

    Costs the same for many firsts, if the numbers lie among few.
    """
    if not len(numbers):
        return np.zeros(0, dtype=np.int64)
    low, high = (bisect_right(firsts, int(number)) - 1 for number in (numbers.min(), numbers.max()))
    if low == high:
        return np.full(len(numbers), low, dtype=np.int64)
    return low + np.searchsorted(firsts[low + 1 : high + 1], numbers, side="right")
