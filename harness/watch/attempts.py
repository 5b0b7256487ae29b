"""Tells recorded steps that count from those that were rolled back, by the order in which they were recorded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def counted_and_rolled_back(steps: Sequence[int]) -> tuple[list[int], list[range]]:
    """Return the places in a recording whose steps count, and those of each stretch that was rolled back (pure).

    A recording is rewound where a step is not later than the one before it. The steps of the first list rise. Each of
    the stretches begins one place earlier where it can: with the step that counts and from which it went on.
    """
    starts = [0, *(place for place in range(1, len(steps)) if steps[place] <= steps[place - 1]), len(steps)]
    counted: list[range] = []
    rolled_back: list[range] = []
    taken_from: float = math.inf
    for start, end in reversed(list(zip(starts, starts[1:], strict=False))):
        last = end if taken_from > steps[end - 1] else bisect_left(steps, taken_from, start, end)
        counted.append(range(start, last))
        if last < end:
            rolled_back.append(range(max(start, last - 1), end))
        taken_from = min(taken_from, steps[start])
    return [place for stretch in reversed(counted) for place in stretch], rolled_back[::-1]
