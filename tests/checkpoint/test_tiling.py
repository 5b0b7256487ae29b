"""Blocks cover a region exactly once, or they do not."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest

from harness.run.checkpoints.tiling import Block, is_tiled

WHOLE: list[Block] = [((0, 0), (4, 6))]
CUTS: dict[str, list[Block]] = {
    "one": WHOLE,
    "rows": [((row, 0), (1, 6)) for row in range(4)],
    "columns": [((0, column), (4, 2)) for column in (4, 0, 2)],
    "a grid": [((row, column), (2, 3)) for row in (0, 2) for column in (0, 3)],
    "rows, of which one is cut": [((0, 0), (3, 6)), ((3, 0), (1, 1)), ((3, 1), (1, 5))],
    "a windmill": [((0, 0), (1, 5)), ((0, 5), (3, 1)), ((3, 1), (1, 5)), ((1, 0), (3, 1)), ((1, 1), (2, 4))],
    "with an empty one": [*WHOLE, ((2, 6), (1, 0))],
}
WRONG: dict[str, list[Block]] = {
    "nothing": [],
    "a hole": [((0, 0), (2, 6)), ((3, 0), (1, 6))],
    "twice": [*WHOLE, *WHOLE],
    "over one another, with a hole of the same size": [((0, 0), (2, 6)), ((1, 0), (2, 6))],
    "the first twice, the last not": [((0, 0), (2, 6)), ((0, 0), (2, 6))],
    "beyond the end": [((0, 0), (4, 3)), ((0, 3), (4, 4))],
    "behind the end": [((0, 6), (4, 6))],
    "too small": [((0, 0), (4, 5))],
    "a windmill with a hole": [((0, 0), (1, 5)), ((0, 5), (3, 1)), ((3, 1), (1, 5)), ((1, 0), (3, 1))],
}


@pytest.mark.parametrize("blocks", CUTS.values(), ids=CUTS)
def test_what_is_whole(blocks: list[Block]) -> None:
    assert is_tiled((4, 6), blocks)


@pytest.mark.parametrize("blocks", WRONG.values(), ids=WRONG)
def test_what_is_not(blocks: list[Block]) -> None:
    assert not is_tiled((4, 6), blocks)


def test_scalars_and_empty_tensors() -> None:
    assert is_tiled((), [((), ())])
    assert not is_tiled((), [])
    assert not is_tiled((), [((), ()), ((), ())])
    assert is_tiled((0, 3), [])
    assert is_tiled((0, 3), [((0, 0), (0, 3))])


def test_random_blocks_are_judged_as_by_counting() -> None:
    chosen = random.Random(2)
    for _ in range(2000):
        blocks = []
        for _ in range(chosen.randint(1, 4)):
            offsets = (chosen.randrange(3), chosen.randrange(3))
            blocks.append((offsets, (chosen.randint(1, 3 - offsets[0]), chosen.randint(1, 3 - offsets[1]))))
        counts = [
            sum(all(a <= x < a + n for x, a, n in zip(point, *block, strict=True)) for block in blocks)
            for point in itertools.product(range(3), range(3))
        ]
        assert is_tiled((3, 3), blocks) == all(count == 1 for count in counts), blocks


def test_many_blocks_are_quick() -> None:
    shape = (50, 40, 20)
    blocks: list[Block] = [(place, (1, 1, 1)) for place in itertools.product(*map(range, shape))]
    random.Random(3).shuffle(blocks)
    began = time.process_time()
    assert is_tiled(shape, blocks)
    assert not is_tiled(shape, blocks[1:])
    assert time.process_time() - began < 10
    assert len(blocks) == math.prod(shape)
