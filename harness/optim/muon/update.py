"""Muon: momentum, made orthogonal matrix by matrix, on state that is cut over the ranks of a pipeline stage.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with decoupled weight decay as `torch.optim.Muon` has
it. Each rank keeps the momentum of its own stretches. What passes between ranks is the update, twice, in the format of
the iteration.

Shapes: R rows and C columns of a matrix; P parts of it on tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.config.schema import OptimizerConfig as Settings
from harness.optim.muon.orthogonal import each_orthogonalized, projection_scales
from harness.optim.muon.sharing import Matrix, Owned, Round, Share, rounds_of
from harness.parallel import collectives
from harness.parameters.parameter import Cut


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """Place of the share of a matrix that this rank holds."""

    shard: torch.Tensor
    """This rank's fp32 weights of the parameter, flat; it has a gradient when it is to be updated."""
    optimizer: torch.optim.Optimizer
    """Keeper of the shard's state, of which a load makes a new dictionary."""
    offset: int
    """Place of the share's first number in the shard."""

    @property
    def average(self) -> torch.Tensor:
        """The average of the shard's gradients."""
        average: torch.Tensor = self.optimizer.state[self.shard]["exp_avg"]
        return average


@dataclass(frozen=True, kw_only=True)
class _Step:
    """The numbers of one update."""

    learning_rate: float
    decay: float
    """Factor of the weights."""
    divisor: torch.Tensor
    """Divisor of the gradients."""


class Muon:
    """The updates of all hidden matrices of which this rank holds a share.

    Args:
        matrices: All matrices of the pipeline stage, the same on each of its ranks.
        held: Where this rank holds its shares, by the matrix' key.
        dtype: Format of the iteration, and of what passes between ranks.
        rank: This rank's number in the stage.
        group: The ranks of the stage.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        held: Mapping[tuple[str, int], Held],
        *,
        dtype: torch.dtype,
        rank: int,
        group: collectives.Group,
    ) -> None:
        self._matrices = matrices
        self._held = held
        self._dtype = dtype
        self._rank = rank
        self._group = group

    def follow(self, settings: Settings, is_frozen: Callable[[str], bool]) -> None:
        """Use these settings from here on, and leave matrices of frozen parameters as they are."""
        moving = [matrix for matrix in self._matrices if not is_frozen(matrix.name)]
        self._settings = settings
        self._own = [matrix for matrix in moving if matrix.is_on_one_rank and matrix.key in self._held]
        self._rounds = rounds_of(moving, self._group.size())
        self._scales = {matrix.key: self._scale(matrix) for matrix in moving if matrix.key in self._held}

    @torch.no_grad()
    def update(self, learning_rate: float, *, divisor: torch.Tensor) -> None:
        """Update the weights by the gradients over `divisor`, and drop the gradients. Every rank must call it."""
        step = _Step(
            learning_rate=learning_rate, decay=1 - learning_rate * self._settings.weight_decay, divisor=divisor
        )
        shards = {id(held.shard): held for held in self._held.values()}
        for held in shards.values():
            if held.shard.grad is not None:  # or the parameter is frozen
                held.average.lerp_(held.shard.grad / divisor, 1 - self._settings.muon_momentum)
        for matrix in self._own:
            whole_RC = self._direction(matrix, step).view(matrix.rows, matrix.columns)
            self._apply(matrix, self._orthogonalized(matrix, whole_RC).flatten(), step)
        for exchange in self._rounds:
            self._exchange(exchange, step)
        for held in shards.values():
            held.shard.grad = None

    def _exchange(self, exchange: Round, step: _Step) -> None:
        """Make the matrices of a round whole on their owners, and update all shares of them."""
        mine = [each for each in exchange if self._rank in each.matrix.shares]
        given = [each for each in mine if not each.matrix.shares[self._rank].is_copy]
        owned = [each.matrix for each in exchange if each.owner == self._rank]
        places = list(_in_order_of_ranks(owned, self._group.size()))
        taken = [(rank, matrix, share) for rank, matrix, share in places if not share.is_copy]
        numbers = collectives.exchanged(
            self._joined([self._direction(each.matrix, step) for each in given]),
            self._sizes((each.owner, self._share(each)) for each in given),
            self._sizes((rank, share) for rank, _, share in taken),
            self._group,
        )
        parts = self._orthogonal_parts(owned, taken, numbers)
        numbers = collectives.exchanged(
            self._joined([parts[matrix.key][share.part, share.begin : share.end] for _, matrix, share in places]),
            self._sizes((rank, share) for rank, _, share in places),
            self._sizes((each.owner, self._share(each)) for each in mine),
            self._group,
        )
        returned = torch.split(numbers, [self._share(each).size for each in mine])
        for each, stretch in zip(mine, returned, strict=True):
            self._apply(each.matrix, stretch, step)

    def _orthogonal_parts(
        self, owned: Sequence[Matrix], taken: Sequence[tuple[int, Matrix, Share]], numbers: torch.Tensor
    ) -> dict[tuple[str, int], torch.Tensor]:
        """Put matrices together out of what the ranks gave, and return them orthogonal, as flattened parts."""
        parts = {matrix.key: numbers.new_empty(matrix.num_parts, matrix.size // matrix.num_parts) for matrix in owned}
        given = torch.split(numbers, [share.size for *_, share in taken])
        for (_, matrix, share), stretch in zip(taken, given, strict=True):
            parts[matrix.key][share.part, share.begin : share.end] = stretch
        for matrix in owned:
            orthogonal_RC = self._orthogonalized(matrix, _joined_parts(parts[matrix.key], matrix))
            parts[matrix.key] = _cut_into_parts(orthogonal_RC, matrix)
        return parts

    def _direction(self, matrix: Matrix, step: _Step) -> torch.Tensor:
        """Return this rank's share of what is made orthogonal: the momentum, with Nesterov's one step further."""
        held, momentum = self._held[matrix.key], self._settings.muon_momentum
        here = slice(held.offset, held.offset + matrix.shares[self._rank].size)
        average = held.average[here]
        if self._settings.muon_nesterov:
            assert held.shard.grad is not None, f"{matrix.name} has a gradient"
            average = (held.shard.grad[here] / step.divisor).lerp(average, momentum)
        return average.to(self._dtype)

    def _orthogonalized(self, matrix: Matrix, whole_RC: torch.Tensor) -> torch.Tensor:
        return each_orthogonalized(whole_RC, matrix.projections, self._settings.muon_num_ns_steps)

    def _apply(self, matrix: Matrix, orthogonal: torch.Tensor, step: _Step) -> None:
        """Update this rank's share of a matrix."""
        held, scale = self._held[matrix.key], self._scales[matrix.key]
        weights = held.shard[held.offset : held.offset + orthogonal.numel()]
        weights.mul_(step.decay)
        if isinstance(scale, float):
            weights.add_(orthogonal, alpha=-step.learning_rate * scale)
        else:
            weights.sub_(self._spread(scale, matrix) * orthogonal * step.learning_rate)

    def _scale(self, matrix: Matrix) -> float | torch.Tensor:
        """Return the factor of the share, or if its rows have several, that of each row of its part."""
        settings = self._settings
        scales = projection_scales(matrix.rows, matrix.columns, matrix.projections, settings.muon_scale_mode)
        scales = tuple(settings.muon_extra_scale_factor * scale for scale in scales)
        if len(set(scales)) == 1:
            return scales[0]
        repeats = matrix.rows // sum(matrix.projections)
        of_rows = torch.tensor(scales).repeat_interleave(torch.tensor(matrix.projections)).repeat(repeats)
        if matrix.cut is not None and matrix.cut.dim == 0:
            part = matrix.shares[self._rank].part
            of_rows = _cut_into_parts(of_rows[:, None], matrix)[part]
        return of_rows.to(self._held[matrix.key].shard.device)

    def _spread(self, scale_R: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """Return the factor of each number of the share."""
        share = matrix.shares[self._rank]
        columns = matrix.size // matrix.num_parts // len(scale_R)
        first, last = share.begin // columns, -(-share.end // columns)
        spread = scale_R[first:last].repeat_interleave(columns, output_size=(last - first) * columns)
        return spread[share.begin - first * columns :][: share.size]

    def _share(self, owned: Owned) -> Share:
        return owned.matrix.shares[self._rank]

    def _sizes(self, shares: Iterator[tuple[int, Share]]) -> list[int]:
        """Return the numbers for each rank of the stage."""
        sizes = [0] * self._group.size()
        for rank, share in shares:
            sizes[rank] += share.size
        return sizes

    def _joined(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        device = torch.cuda.current_device()
        return torch.cat(list(tensors)) if tensors else torch.empty(0, dtype=self._dtype, device=device)


def _in_order_of_ranks(matrices: Sequence[Matrix], num_ranks: int) -> Iterator[tuple[int, Matrix, Share]]:
    """Yield the shares of the matrices, rank by rank, and for each rank in the order of the matrices."""
    for rank in range(num_ranks):
        yield from ((rank, matrix, matrix.shares[rank]) for matrix in matrices if rank in matrix.shares)


def _joined_parts(parts: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """Return the whole matrix `[R, C]` of its flattened parts `[P, numbers]`."""
    cut = matrix.cut
    if cut is None or matrix.num_parts == 1:
        return parts.view(matrix.rows, matrix.columns)
    return _swapped(parts, matrix, cut, is_joining=True).reshape(matrix.rows, matrix.columns)


def _cut_into_parts(whole_RC: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """Return the flattened parts `[P, numbers]` of a whole matrix, or of one that has as many rows."""
    cut = matrix.cut
    if cut is None or matrix.num_parts == 1:
        return whole_RC.reshape(1, -1)
    return _swapped(whole_RC, matrix, cut, is_joining=False).reshape(matrix.num_parts, -1)


def _swapped(numbers: torch.Tensor, matrix: Matrix, cut: Cut, *, is_joining: bool) -> torch.Tensor:
    """Swap the axis of the parts with those in front of each part's stretch: every block is cut on its own."""
    in_front = cut.num_blocks if cut.dim == 0 else matrix.rows * cut.num_blocks
    axes = (matrix.num_parts, in_front) if is_joining else (in_front, matrix.num_parts)
    return numbers.reshape(*axes, -1).transpose(0, 1)
