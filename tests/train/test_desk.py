"""The thread that does in files what training asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from harness.train.components import desk as desks
from harness.train.components.desk import Desk


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk("test desk")
    yield made
    made.close()


def test_acts_are_done_in_order_by_another_thread(desk: Desk) -> None:
    done: list[tuple[int, str]] = []
    for number in range(100):
        desk.hand(lambda number=number: done.append((number, threading.current_thread().name)))
    desk.settle()
    assert done == [(number, "test desk") for number in range(100)]


def test_nobody_waits_for_an_act_that_was_handed_over(desk: Desk) -> None:
    is_allowed = threading.Event()
    done: list[str] = []
    desk.hand(is_allowed.wait)
    desk.hand(lambda: done.append("later"))
    assert done == []
    is_allowed.set()
    desk.settle()
    assert done == ["later"]


def test_an_act_may_hand_over_acts_which_come_first(desk: Desk) -> None:
    done: list[str] = []

    def act() -> None:
        desk.hand(lambda: done.append("inner"))
        assert desk.do(lambda: "result") == "result"
        done.append("outer")

    desk.hand(act)
    desk.hand(lambda: done.append("next"))
    desk.settle()
    assert done == ["inner", "outer", "next"]


def test_an_error_is_raised_at_the_next_call_and_the_rest_is_done(desk: Desk) -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError("taken over")

    desk.hand(fail)
    desk.hand(fail)
    with pytest.raises(ValueError, match="taken over"):
        desk.settle()
    desk.hand(lambda: done.append("after"))
    desk.settle()
    assert done == ["after"]


def test_whoever_waits_for_an_act_gets_its_result_or_its_error(desk: Desk) -> None:
    assert desk.do(lambda: 3) == 3
    assert desk.begin(lambda: 4).result() == 4
    with pytest.raises(OSError, match="full"):
        desk.do(lambda: _refuse("full"))
    desk.settle()


def test_the_end_waits_for_what_is_left_and_tells_of_its_error() -> None:
    done: list[str] = []
    desk = Desk("test desk")
    desk.hand(lambda: done.append("written"))
    desk.hand(lambda: _refuse("gone"))
    with pytest.raises(OSError, match="gone"):
        desk.close()
    assert done == ["written"]
    with pytest.raises(AssertionError, match="closed"):
        desk.hand(lambda: done.append("too late"))


def test_a_desk_that_gets_nothing_has_no_thread() -> None:
    before = threading.active_count()
    desk = Desk("test desk")
    desk.settle()
    desk.close()
    assert threading.active_count() == before


def test_training_waits_when_too_much_waits() -> None:
    is_allowed, is_handed = threading.Event(), threading.Event()
    with patch.object(desks, "MOST_WAITING", 2):
        desk = Desk("test desk")
    desk.hand(is_allowed.wait)

    def hand_many() -> None:
        for _ in range(5):
            desk.hand(lambda: None)
        is_handed.set()

    training = threading.Thread(target=hand_many)
    training.start()
    assert not is_handed.wait(0.2)
    is_allowed.set()
    assert is_handed.wait(10)
    training.join()
    desk.close()


def _refuse(why: str) -> None:
    raise OSError(why)
