from __future__ import annotations

import numpy as np
import pytest

from harness.data.order.shuffle import permutation, shuffle_key


@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 4, 255, 256, 1000])
def test_every_number_once(num_items: int) -> None:
    assert sorted(permutation(num_items, 7).tolist()) == list(range(num_items))


def test_golden_order() -> None:
    """Pinned for ever: a change would give every run in the world another order of data."""
    key = shuffle_key("documents", 1234, "zh", "part-00000", 0)
    assert key == 96143909702916590765412361081838495080
    assert permutation(12, key).tolist() == [10, 11, 2, 1, 6, 8, 3, 5, 7, 9, 0, 4]


def test_every_name_counts() -> None:
    keys = {shuffle_key("a", 1, "b"), shuffle_key("a", 2, "b"), shuffle_key("a", "1", "b"), shuffle_key("a1", "b")}
    assert len(keys) == 4
    assert permutation(100, 1).tolist() != permutation(100, 2).tolist()


def test_places_are_even() -> None:
    """Over 2,000 shuffles of 8 items each item is at each place about 250 times (5 standard deviations: 74)."""
    table = np.zeros((8, 8), dtype=int)
    for key in range(2000):
        table[np.arange(8), permutation(8, key)] += 1
    assert np.abs(table - 250).max() < 74
