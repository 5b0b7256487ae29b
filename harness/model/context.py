"""Context parallelism: the positions of a shared sequence that each rank holds.

The sequence is cut into 2·c equal slices for c ranks; rank r holds slices r and 2·c-1-r. Under a causal mask a late
token looks at more tokens than an early one, and this pairing gives every rank the same work. Megatron and Transformer
Engine expect exactly this cut.

Shapes: B micro batch, S sequence.
"""

from __future__ import annotations

import torch

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
