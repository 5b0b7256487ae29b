from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order.blend_table import MAX_PERIOD, Blend, make_blend


def shares_of(weights: list[int]) -> dict[str, Fraction]:
    return {f"channel{number}": Fraction(weight, sum(weights)) for number, weight in enumerate(weights)}


def largest_error(blend: Blend, shares: dict[str, Fraction]) -> Fraction:
    """How far a channel is from its share, at the worst moment of a period."""
    slots = np.arange(1, blend.period + 1)
    worst = Fraction(0)
    for channel, share in enumerate(shares.values()):
        counts = np.cumsum(blend.channel_by_slot == channel)
        error = np.abs(counts * share.denominator - slots * share.numerator).max()
        worst = max(worst, Fraction(int(error), share.denominator))
    return worst


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_every_channel_has_its_share_within_one_sample_at_all_times(weights: list[int]) -> None:
    shares = shares_of(weights)
    blend = make_blend(shares)
    assert [Fraction(count, blend.period) for count in blend.samples_per_period] == list(shares.values())
    bound = 1 - Fraction(1, 2 * len(weights) - 2) if len(weights) > 1 else Fraction(0)
    assert largest_error(blend, shares) <= bound < 1


@pytest.mark.parametrize("weights", [[1, 65535], [32768, 32767, 1], [40000, 20000, 5000, 500, 30, 6], [1] * 40])
def test_extreme_shares(weights: list[int]) -> None:
    assert largest_error(make_blend(shares_of(weights)), shares_of(weights)) < 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 10**12))
def test_one_sample_and_many_samples_agree(weights: list[int], start: int) -> None:
    blend = make_blend(shares_of(weights))
    positions = np.arange(start, start + 50)
    channels, within = blend.channels_of(positions)
    found = zip(channels.tolist(), within.tolist(), strict=True)
    assert [blend.sample_of(channel, number) for channel, number in found] == positions.tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_a_channel_gives_its_samples_in_order_without_a_gap(weights: list[int]) -> None:
    blend = make_blend(shares_of(weights))
    num_samples = 2 * blend.period + 7
    channels, within = blend.channels_of(np.arange(num_samples))
    for channel, count in enumerate(blend.counts(num_samples)):
        assert within[channels == channel].tolist() == list(range(count))


def test_golden_table() -> None:
    blend = make_blend({"zh": Fraction(1, 2), "en": Fraction(1, 3), "code": Fraction(1, 6)})
    assert [blend.names[channel] for channel in blend.channel_by_slot] == ["zh", "en", "zh", "code", "en", "zh"]


def test_order_of_the_shares_changes_no_sample() -> None:
    shares = shares_of([3, 3, 2, 1])
    one, other = make_blend(shares), make_blend(dict(reversed(shares.items())))
    assert [one.names[c] for c in one.channel_by_slot] == [other.names[c] for c in other.channel_by_slot]


def test_shares_that_need_a_longer_table_are_rounded() -> None:
    shares = shares_of([1_000_003, 2_000_003, 5, 1])
    blend = make_blend(shares)
    assert blend.period == sum(blend.samples_per_period) == MAX_PERIOD
    assert min(blend.samples_per_period) == 1
    for count, share in zip(blend.samples_per_period, shares.values(), strict=True):
        assert abs(count - share * MAX_PERIOD) < 2  # the two raised to one are paid for by the largest


def test_many_tiny_shares_are_paid_for_by_the_largest() -> None:
    blend = make_blend(shares_of([10**9, *[1] * 20]))
    assert blend.samples_per_period == (MAX_PERIOD - 20, *[1] * 20)


@pytest.mark.parametrize("shares", [{"a": Fraction(1, 2)}, {"a": Fraction(0), "b": Fraction(1)}])
def test_shares_that_are_none(shares: dict[str, Fraction]) -> None:
    with pytest.raises(ValueError, match="the shares of a blend must be positive and add up to 1"):
        make_blend(shares)
