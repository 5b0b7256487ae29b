"""The proof that blocks cover a region exactly once: no number is missing, and none is there twice (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

Shape = tuple[int, ...]
Block = tuple[Shape, Shape]
"""Offsets and sizes of a block, one of each per dimension."""

_MOST_CUTS = 16
"""Times that a region is cut again. Layouts cut each dimension once, in all places together."""
_MOST_TANGLED = 256
"""Blocks of a region that no straight cut divides, which are compared one with one."""


def is_tiled(shape: Shape, blocks: Sequence[Block]) -> bool:
    """Return whether blocks cover a tensor of a shape exactly once. Empty blocks count for nothing.

    A region is cut where no block crosses the cut, in one dimension after the other, until each piece has one block. Of
    n blocks that takes n·log(n) steps for each time that a region is cut again.
    """
    blocks = [(offsets, sizes) for offsets, sizes in blocks if math.prod(sizes)]
    waiting: list[tuple[Block, Sequence[Block], int]] = [(((0,) * len(shape), shape), blocks, 0)]
    while waiting:
        region, inside, num_cuts = waiting.pop()
        if not math.prod(region[1]):
            if inside:
                return False
        elif len(inside) == 1:
            if inside[0] != region:
                return False
        elif pieces := _cut(region, inside) if num_cuts < _MOST_CUTS else []:
            waiting += [(piece, of_piece, num_cuts + 1) for piece, of_piece in pieces]
        elif not _is_tangle_tiled(region, inside):
            return False
    return True


def _cut(region: Block, blocks: Sequence[Block]) -> list[tuple[Block, list[Block]]]:
    """Return the pieces of a region and their blocks, cut in the first dimension in which that is possible."""
    offsets, sizes = region
    for axis in range(len(sizes)):
        ordered = sorted(blocks, key=lambda block: block[0][axis])
        pieces: list[tuple[Block, list[Block]]] = []
        start, end = offsets[axis], offsets[axis]
        taken: list[Block] = []
        for block in ordered:
            if taken and block[0][axis] >= end:
                pieces.append((_piece(region, axis, start, block[0][axis]), taken))
                start, taken = block[0][axis], []
            taken.append(block)
            end = max(end, block[0][axis] + block[1][axis])
        if pieces:
            pieces.append((_piece(region, axis, start, offsets[axis] + sizes[axis]), taken))
            return pieces
    return []


def _piece(region: Block, axis: int, start: int, stop: int) -> Block:
    offsets, sizes = region
    return (
        (*offsets[:axis], start, *offsets[axis + 1 :]),
        (*sizes[:axis], stop - start, *sizes[axis + 1 :]),
    )


def _is_tangle_tiled(region: Block, blocks: Sequence[Block]) -> bool:
    """Compare every block with every other one."""
    if not blocks or len(blocks) > _MOST_TANGLED:
        return False
    inside = all(
        at <= a and a + n <= at + size
        for offsets, sizes in blocks
        for a, n, at, size in zip(offsets, sizes, *region, strict=True)
    )
    apart = all(_are_apart(one, other) for one, other in combinations(blocks, 2))
    return inside and apart and sum(math.prod(sizes) for _, sizes in blocks) == math.prod(region[1])


def _are_apart(one: Block, other: Block) -> bool:
    return any(a + m <= b or b + n <= a for a, m, b, n in zip(*one, *other, strict=True))
