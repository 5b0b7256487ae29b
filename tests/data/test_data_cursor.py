from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order.cursor import Cursor, rank_positions
from harness.errors import CheckpointError

WINDOWS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=5
)


@given(WINDOWS, st.lists(st.integers(0, 12), max_size=8))
def test_samples_come_in_order_without_the_skipped_ones(windows: list[tuple[int, int]], takes: list[int]) -> None:
    cursor = Cursor(skip_windows=tuple(windows))
    taken: list[int] = []
    for count in takes:
        positions, cursor = cursor.take(count, seq_length=8)
        cursor = Cursor.from_json(json.loads(json.dumps(cursor.to_json())))  # as if resumed here
        taken += positions.tolist()
    allowed = [k for k in range(200) if not any(start <= k < stop for start, stop in windows)]
    assert taken == allowed[: sum(takes)]
    assert (cursor.consumed_samples, cursor.consumed_tokens) == (sum(takes), 8 * sum(takes))


@given(WINDOWS, st.integers(1, 20), st.integers(1, 20))
def test_window_in_the_past_changes_nothing(windows: list[tuple[int, int]], before: int, after: int) -> None:
    _, cursor = Cursor().take(before, seq_length=1)
    changed = cursor
    for start, stop in windows:
        changed = changed.with_skip_window(min(start, before), min(stop, before))
    assert changed.take(after, 1)[0].tolist() == cursor.take(after, 1)[0].tolist()


def test_window_under_way_is_left_from_here_on() -> None:
    _, cursor = Cursor().take(5, seq_length=1)
    assert cursor.with_skip_window(3, 8).take(3, 1)[0].tolist() == [8, 9, 10]


def test_windows_are_sorted_and_merged() -> None:
    cursor = Cursor(skip_windows=((9, 12), (1, 3), (3, 4), (10, 11), (5, 5)))
    assert cursor.skip_windows == ((1, 4), (9, 12))
    assert cursor == Cursor(skip_windows=((1, 4), (9, 12)))


@pytest.mark.parametrize("window", [(3, 2), (-1, 2)])
def test_window_that_is_none(window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"a skip window is \[start, stop\) with 0 <= start <= stop"):
        Cursor().with_skip_window(*window)


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": 0, "skip_windows": []},
        {"consumed_samples": -1, "consumed_tokens": 8, "next_position": 1, "skip_windows": []},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": 1.0, "skip_windows": []},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": True, "skip_windows": []},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": 1, "skip_windows": [[5, 2]]},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": 1, "skip_windows": [[5]]},
        {"consumed_samples": 1, "consumed_tokens": 8, "next_position": 1, "skip_windows": [], "more": 1},
    ],
)
def test_unreadable_cursor(values: object) -> None:
    with pytest.raises(CheckpointError, match="the cursor of the checkpoint is unreadable: .* Resume from another"):
        Cursor.from_json(values)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
def test_ranks_share_the_batch_in_the_order_of_the_micro_batches(
    dp_size: int, micro_batch_size: int, num_microbatches: int, start: int
) -> None:
    positions = np.arange(start, start + dp_size * micro_batch_size * num_microbatches)
    cut = [
        rank_positions(positions, dp_rank=rank, dp_size=dp_size, micro_batch_size=micro_batch_size)
        for rank in range(dp_size)
    ]
    assert all(mine.shape == (num_microbatches, micro_batch_size) for mine in cut)
    for m in range(num_microbatches):
        for r in range(dp_size):
            first = start + m * micro_batch_size * dp_size + r * micro_batch_size
            assert cut[r][m].tolist() == list(range(first, first + micro_batch_size))


def test_uneven_batch() -> None:
    with pytest.raises(ValueError, match="10 samples cannot be cut into 2 ranks x 3 samples"):
        rank_positions(np.arange(10), dp_rank=0, dp_size=2, micro_batch_size=3)
