from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order.fitting import best_fit, num_best_fit


@given(st.lists(st.integers(1, 20), max_size=40))
def test_best_fit_fills_samples_and_opens_one_only_where_nothing_fits(lengths: list[int]) -> None:
    falling = sorted(lengths, reverse=True)
    samples = best_fit(falling, 20)
    filled: dict[int, int] = {}
    for length, sample in zip(falling, samples, strict=True):
        if sample not in filled:
            assert all(room + length > 20 for room in filled.values())
            assert sample == len(filled)
        filled[sample] = filled.get(sample, 0) + length
    assert all(full <= 20 for full in filled.values())


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.randoms())
def test_number_of_samples_does_not_depend_on_the_order_of_documents(lengths: list[int], random: object) -> None:
    shuffled = sorted(lengths, key=lambda _: random.random())  # type: ignore[attr-defined]
    expected = num_best_fit(np.array(lengths), 12)
    assert num_best_fit(np.array(shuffled), 12) == expected
    assert expected >= -(-sum(lengths) // 13)
