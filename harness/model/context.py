"""Context parallelism: the positions of a shared sequence that each rank holds.

The sequence is cut into 2·c equal slices for c ranks; rank r holds slices r and 2·c-1-r. Under a causal mask a late
token looks at more tokens than an early one, and this pairing gives every rank the same work. Megatron and Transformer
Engine expect exactly this cut.

Shapes: B micro batch, S sequence.
"""

from __future__ import annotations

import torch

from harness.parallel import collectives
from harness.parallel.ranks import Place

WHOLE = Place(rank=0, size=1)
"""Place without context parallelism."""


def positions(length: int, cp: Place) -> torch.Tensor:
    """Return the positions in the whole sequence of the `length` tokens of a rank: `[length]`, int64, on the CPU."""
    if cp.size == 1:
        return torch.arange(length, device="cpu")
    assert length % 2 == 0, "a rank holds two slices of equal length"
    slices = torch.arange(cp.size * length, device="cpu").view(2 * cp.size, length // 2)
    return slices[[cp.rank, 2 * cp.size - 1 - cp.rank]].flatten()


def own_part(whole_BS: torch.Tensor, cp: Place) -> torch.Tensor:
    """Return a rank's part of a whole sequence: `[B, S/c]`; the tensor itself if nothing is shared."""
    if cp.size == 1:
        return whole_BS
    first, second = (whole_BS.chunk(2 * cp.size, dim=1)[index] for index in (cp.rank, 2 * cp.size - 1 - cp.rank))
    return torch.cat((first, second), dim=1)


def whole_of(part_BS: torch.Tensor, group: collectives.Group) -> torch.Tensor:
    """Return whole samples from the parts of all ranks, without gradients: `[B, S]`. Every rank must call it."""
    parts = collectives.joined(part_BS.T.flatten(), group).view(-1, len(part_BS))
    return in_order(parts, group.size()).T


def in_order(by_rank_S: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """Return the tokens of whole sequences from those that the ranks hold, one rank behind the other: `[S, …]` both."""
    slices = by_rank_S.chunk(2 * num_ranks)
    return torch.cat([*slices[::2], *slices[::-2]])


def by_rank(whole_S: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """Return the tokens of each rank, one rank behind the other, from those of whole sequences: `[S, …]` both."""
    slices = whole_S.chunk(2 * num_ranks)
    return torch.cat([slices[place] for rank in range(num_ranks) for place in (rank, 2 * num_ranks - 1 - rank)])
