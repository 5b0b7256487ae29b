"""Places of positions: powers of two, each position in one."""

from __future__ import annotations

import pytest
import torch

from harness.data.places import place_starts, places_of


@pytest.mark.parametrize(
    ("seq_length", "starts"),
    [
        (1, (0,)),
        (16, (0,)),
        (17, (0, 16)),
        (64, (0, 16, 32)),
        (65, (0, 16, 32, 64)),
        (4096, (0, 16, 32, 64, 128, 256, 512, 1024, 2048)),
    ],
)
def test_starts(seq_length: int, starts: tuple[int, ...]) -> None:
    assert place_starts(seq_length) == starts


def test_every_position_is_in_the_last_place_that_begins_before_it() -> None:
    starts = place_starts(1000)
    expected = [max(number for number, start in enumerate(starts) if start <= position) for position in range(1000)]
    assert places_of(torch.arange(1000).reshape(2, 500)).flatten().tolist() == expected


def test_the_longest_samples_have_places() -> None:
    last = 2**24 - 1
    assert places_of(torch.tensor([[last]])).item() == len(place_starts(2**24)) - 1
