from __future__ import annotations

import threading

import pytest

from harness.data.prefetch import Prefetcher


class Recorder:
    """Prepares 10 · key, in which keys from `broken_from` on fail, and remembers who asked for what."""

    def __init__(self, broken_from: int = 10**9) -> None:
        self.broken_from = broken_from
        self.keys: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, key: int) -> int:
        self.keys.append(key)
        self.threads.add(threading.current_thread().name)
        if key >= self.broken_from:
            raise ValueError(f"no value for {key}")
        return 10 * key


def following(key: int) -> int:
    return key + 1


@pytest.mark.parametrize("num_ahead", [0, 1, 3])
def test_values_in_turn_each_prepared_once(num_ahead: int) -> None:
    record = Recorder()
    prefetcher = Prefetcher(record, following, num_ahead)
    assert [prefetcher.get(key) for key in range(6)] == [0, 10, 20, 30, 40, 50]
    prefetcher.close()
    assert record.keys[:6] == list(range(6))
    assert len(record.keys) == len(set(record.keys)) <= 6 + num_ahead


def test_prepares_ahead_in_its_own_thread_without_being_asked() -> None:
    both_ahead = threading.Event()
    record = Recorder()

    def prepare(key: int) -> int:
        value = record(key)
        if key == 2:
            both_ahead.set()
        return value

    prefetcher = Prefetcher(prepare, following, 2)
    assert prefetcher.get(0) == 0
    assert both_ahead.wait(timeout=30)
    prefetcher.close()
    assert record.keys == [0, 1, 2]
    assert record.threads == {"prefetch_0"}


def test_another_key_drops_what_was_prepared() -> None:
    prefetcher = Prefetcher(Recorder(), following, 2)
    assert [prefetcher.get(key) for key in (0, 1, 7, 8, 0)] == [0, 10, 70, 80, 0]
    prefetcher.close()


@pytest.mark.parametrize("num_ahead", [0, 2])
def test_error_is_raised_when_its_value_is_asked_for_and_again(num_ahead: int) -> None:
    prefetcher = Prefetcher(Recorder(broken_from=2), following, num_ahead)
    assert [prefetcher.get(0), prefetcher.get(1)] == [0, 10]
    for _ in range(2):
        with pytest.raises(ValueError, match="no value for 2"):
            prefetcher.get(2)
    assert prefetcher.get(1) == 10
    prefetcher.close()


def test_close_ends_the_thread_and_may_be_repeated() -> None:
    before = set(threading.enumerate())
    prefetcher = Prefetcher(Recorder(), following, 2)
    prefetcher.get(0)
    assert set(threading.enumerate()) - before
    prefetcher.close()
    prefetcher.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(RuntimeError, match="the prefetcher is closed"):
        prefetcher.get(0)


def test_thread_begins_with_what_it_is_told() -> None:
    begun: list[str] = []
    prefetcher = Prefetcher(Recorder(), following, 1, lambda: begun.append(threading.current_thread().name))
    prefetcher.get(0)
    prefetcher.close()
    assert begun == ["prefetch_0"]
