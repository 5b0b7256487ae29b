"""Parts that arrive one by one: the thousandth costs what the tenth did, and so does a step behind it."""

from __future__ import annotations

import numpy as np
from counted import instructions_of

from benchmarks.many_parts import Growing
from harness.data.order.growing import GrowingSums, owners_of

FEW = 40


def test_an_adoption_and_a_step_cost_the_same_after_many() -> None:
    growing = Growing()
    costs: dict[int, tuple[int, int]] = {}
    for number in range(16 * FEW + 1):
        if number in (FEW, 16 * FEW):
            growing.adopt()  # the sums of parts have room now
            costs[number] = instructions_of(growing.adopt), instructions_of(growing.step)
        growing.adopt()
        growing.step()
    (adoption, step), (late_adoption, late_step) = costs[FEW], costs[16 * FEW]
    assert late_adoption < 1.1 * adoption
    assert late_step < 1.05 * step


def test_sums_grow_in_place_and_what_was_given_stays() -> None:
    sums = GrowingSums()
    sums.add(np.array([3, 4, 5]))
    first = sums.first(2)
    sums.add(np.array([1]))
    sums.add(np.array([2]))
    assert sums.first(5).tolist() == [3, 7, 12, 13, 15]
    assert first.tolist() == [3, 7]
    assert np.shares_memory(sums.first(4), sums.first(5))
    assert not first.flags.writeable
    assert len(sums) == 5


def test_owners_are_those_of_a_search_among_all() -> None:
    firsts = [0, 4, 4, 9, 20]
    numbers = np.array([0, 3, 4, 8, 9, 19, 20, 100])
    assert owners_of(firsts, numbers).tolist() == (np.searchsorted(firsts, numbers, side="right") - 1).tolist()
    for number in numbers:
        assert owners_of(firsts, np.array([number])).tolist() == [np.searchsorted(firsts, number, side="right") - 1]
    assert owners_of(firsts, np.zeros(0, dtype=np.int64)).tolist() == []
