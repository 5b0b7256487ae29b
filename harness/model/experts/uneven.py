"""Collectives over gloo of which every rank gives another number of rows: gloo itself wants equal numbers.

Both are made of an exchange of all with all, which autograd follows. Shapes: W ranks of the group, n_w rows of rank w,
any further dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Exchange = Callable[[torch.Tensor, list[int], list[int]], torch.Tensor]
"""Sends rows to all ranks and returns what they sent, given how many rows come from and go to each."""


def gathered(own: torch.Tensor, sizes: Sequence[int], exchange: Exchange) -> torch.Tensor:
    """Concatenate the rows of all ranks, in rank order; the gradient of a row is the sum over all ranks."""
    to_each = own.repeat(len(sizes), *(1 for _ in own.shape[1:]))
    return exchange(to_each, list(sizes), [len(own)] * len(sizes))


def scattered_sum(whole: torch.Tensor, sizes: Sequence[int], rank: int, exchange: Exchange) -> torch.Tensor:
    """Add up the tensors of all ranks, and return this rank's rows of the sum."""
    from_each = exchange(whole, [sizes[rank]] * len(sizes), list(sizes))
    return from_each.view(len(sizes), sizes[rank], *whole.shape[1:]).sum(dim=0)
