"""Places at which the held-out loss is summed up apart: positions in a sample or a document, by powers of two.

Of a model that uses a long context, the loss falls with the tokens that it has seen, up to the last position.
"""

from __future__ import annotations

import torch

FIRST_END = 16
"""Tokens of the first place; each of the others ends at twice the position at which it begins."""


def place_starts(seq_length: int) -> tuple[int, ...]:
    """Return the first position of each place that a sample of `seq_length` tokens has."""
    starts = [0, FIRST_END]
    while 2 * starts[-1] < seq_length:
        starts.append(2 * starts[-1])
    return tuple(start for start in starts if start < seq_length)


def places_of(positions_BS: torch.Tensor) -> torch.Tensor:
    """Return the number of the place of each position: `[B, S]`, int64 both."""
    ends = torch.tensor([FIRST_END << number for number in range(32)])
    return torch.bucketize(positions_BS, ends, right=True)
