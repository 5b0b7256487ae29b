"""Which ranks are slower than the others."""

from __future__ import annotations

import pytest

from harness.metrics.stragglers import slow_ranks, usual_time


@pytest.mark.parametrize(
    ("times", "slow"),
    [
        ({}, []),
        ({0: 1.0}, []),
        ({0: 1.0, 1: 1.2}, []),
        ({0: 1.4, 1: 1.0}, [0]),  # of two the faster one is usual
        ({0: 1.0, 1: 1.5, 2: 1.1, 3: 2.0, 4: 1.0}, [3, 1]),
    ],
)
def test_the_slow_ones_come_slowest_first(times: dict[int, float], slow: list[int]) -> None:
    assert slow_ranks(times) == slow


def test_usual_is_the_median() -> None:
    assert usual_time({0: 3.0, 1: 1.0, 2: 2.0}) == 2.0
    assert usual_time({}) == 0.0
