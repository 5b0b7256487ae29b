"""Which ranks are slower than the others, by a thing that takes the same time on all of them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

SLOW_FACTOR = 1.3
"""A rank is slow if it takes so many times as long as the median rank. Equal GPUs differ by a few percent; one that is
throttled is beyond this."""


def usual_time(times: Mapping[int, float]) -> float:
    """The time that is usual among ranks; of an even number of ranks the lower one in the middle, 0 without any."""
    return median_low(times.values()) if times else 0.0


def slow_ranks(times: Mapping[int, float]) -> list[int]:
    """The ranks that are slow, the slowest first."""
    limit = SLOW_FACTOR * usual_time(times)
    return sorted((rank for rank, time in times.items() if time > limit), key=lambda rank: -times[rank])
