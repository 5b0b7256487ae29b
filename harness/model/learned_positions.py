"""Learned positions: the number of the vector that each token gets.

Shapes: B micro batch, S tokens of this rank in each sample, T tokens of whole samples.
"""

from __future__ import annotations

import torch

from harness.model import context
from harness.model.attention.bounds import Documents
from harness.parallel.ranks import Place


def positions_of(ids_BS: torch.Tensor, documents: Documents | None, cp: Place) -> torch.Tensor:
    """Return the position of each token in its sample, or in its document: `[B, S]`, int64, on the tokens' device."""
    batch, length = ids_BS.shape
    if documents is None:
        return context.positions(length, cp).to(ids_BS.device).expand(batch, length)
    places_T = torch.arange(batch * length * cp.size, device=ids_BS.device)
    starts = documents.starts.long()
    document_T = torch.bucketize(places_T, starts, right=True) - 1
    return context.own_part((places_T - starts[document_T]).view(batch, -1), cp)
