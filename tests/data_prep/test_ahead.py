from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest

from data_prep.channels.ahead import ahead


def counting(end: int, seen: list[int]) -> Generator[int, None, None]:
    try:
        for number in range(end):
            seen.append(number)
            yield number
    finally:
        seen.append(-1)


def test_items_come_in_order() -> None:
    with ahead(counting(1000, [])) as numbers:
        assert list(numbers) == list(range(1000))


def test_never_more_than_a_few_ahead() -> None:
    seen: list[int] = []
    with ahead(counting(1000, seen), num_items=2) as numbers:
        for number in numbers:
            # In hand: this one, two that are ready, one that waits to be put down.
            assert max(seen) <= number + 3


def test_leaving_early_ends_the_thread_and_the_iterator() -> None:
    seen: list[int] = []
    with ahead(counting(10**9, seen)) as numbers:
        assert next(iter(numbers)) == 0
    assert seen[-1] == -1
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_an_error_comes_when_its_turn_is() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no more")

    got = []
    with pytest.raises(ValueError, match="no more"), ahead(failing()) as numbers:  # type: ignore[arg-type]
        for number in numbers:
            got.append(number)
    assert got == [1, 2]
