"""A plan of who orthogonalizes which matrix: all ranks of a pipeline stage make it alike, without asking each other.

The optimizer's state is cut into equal stretches of flat buffers, so a matrix may lie on several ranks: on tensor-
parallel ones that cut it, on data-parallel ones that share each part. One of those that hold it is its owner. It gets
the others' numbers, makes the matrix orthogonal, and returns to each what belongs to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.parameters.parameter import Cut

_NUMBERS_OF_A_ROUND = 2**26
"""Numbers that an owner gets at once, at most: 128 MiB in bf16. A larger matrix is a round of its own."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The stretch of a matrix that one rank holds: numbers [begin, end) of one of its parts, flattened."""

    part: int
    """Part of the matrix, among those into which tensor-parallel ranks cut it."""
    begin: int
    end: int
    is_copy: bool
    """True if a lower rank holds the same numbers."""

    @property
    def size(self) -> int:
        """Numbers."""
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A hidden matrix of a pipeline stage, or that of one expert."""

    name: str
    """Name of its parameter in the whole model."""
    expert: int | None
    """Number among all experts; None: it is not of experts."""
    rows: int
    columns: int
    projections: tuple[int, ...]
    """Rows of the projections that are orthogonalized on their own (see `orthogonal.each_orthogonalized`)."""
    cut: Cut | None
    """Cut of the matrix over `num_parts` ranks, in dimensions of the matrix."""
    num_parts: int
    shares: Mapping[int, Share]
    """By rank of the stage."""

    @property
    def key(self) -> tuple[str, int]:
        """Its name and the expert; distinct in a stage."""
        return self.name, -1 if self.expert is None else self.expert

    @property
    def size(self) -> int:
        """Numbers."""
        return self.rows * self.columns

    @property
    def is_on_one_rank(self) -> bool:
        """True if a single rank holds it."""
        return len(self.shares) == 1

    @cached_property
    def cost(self) -> int:
        """Work of orthogonalizing it, in multiplications of one product of a step."""
        repeats = self.rows // sum(self.projections)
        heights = [repeats * own for own in self.projections]
        return sum(height * self.columns * min(height, self.columns) for height in heights)


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A matrix and the rank that orthogonalizes it."""

    matrix: Matrix
    owner: int


Round = tuple[Owned, ...]
"""Matrices that are exchanged together, in order of owners."""


def rounds_of(matrices: Iterable[Matrix], num_ranks: int, most_numbers: int = _NUMBERS_OF_A_ROUND) -> tuple[Round, ...]:
    """Return the exchanges that make the matrices whole that lie on several ranks, so that the work is shared evenly.

    The others are their holders' work, and count as such.
    """
    load = dict.fromkeys(range(num_ranks), 0)
    spread = []
    for matrix in matrices:
        if matrix.is_on_one_rank:
            load[next(iter(matrix.shares))] += matrix.cost
        else:
            spread.append(matrix)
    of_owners: dict[int, list[Matrix]] = defaultdict(list)
    for matrix in sorted(spread, key=lambda matrix: (-matrix.cost, matrix.key)):
        owner = min(matrix.shares, key=lambda rank: (load[rank], -matrix.shares[rank].size, rank))
        load[owner] += matrix.cost
        of_owners[owner].append(matrix)
    cut = {owner: _cut_by_size(owned, most_numbers) for owner, owned in sorted(of_owners.items())}
    return tuple(
        tuple(
            Owned(matrix=matrix, owner=owner)
            for owner, stretches in cut.items()
            for matrix in (stretches[number] if number < len(stretches) else ())
        )
        for number in range(max(map(len, cut.values()), default=0))
    )


def _cut_by_size(matrices: Sequence[Matrix], most_numbers: int) -> list[list[Matrix]]:
    """Cut the matrices into stretches of at most `most_numbers` numbers. A larger matrix is a stretch of its own."""
    stretches: list[list[Matrix]] = []
    room = 0
    for matrix in matrices:
        if matrix.size > room:
            stretches.append([])
            room = most_numbers
        stretches[-1].append(matrix)
        room -= matrix.size
    return stretches
