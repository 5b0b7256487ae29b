"""Finds ranks that are slower than the others, by the time of a computation that is the same on all of them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

SLOW_FACTOR = 1.3
"""A rank is slow if it takes this many times as long as the median rank. Equal GPUs differ by a few percent; a
throttled one is beyond this."""


def usual_time(times: Mapping[int, float]) -> float:
    """Return the usual time of a rank: the lower median, or 0 without ranks."""
    return median_low(times.values()) if times else 0.0


def slow_ranks(times: Mapping[int, float]) -> list[int]:
    """Return the slow ranks, the slowest first."""
    limit = SLOW_FACTOR * usual_time(times)
    return sorted((rank for rank, time in times.items() if time > limit), key=lambda rank: -times[rank])
