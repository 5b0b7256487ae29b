"""Inputs and labels of the modules that predict further tokens.

Module k sees at token i the embedding of token i + k, and predicts token i + k + 1, which is the label of token i + k.
Shapes: B micro batch, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Tokens that a module reads and predicts."""

    tokens_BS: torch.Tensor
    """Tokens that it embeds; 0 where there is none."""
    labels_BS: torch.Tensor
    """Tokens that it predicts; any where none counts."""
    loss_mask_BS: torch.Tensor
    """Weight of each label: that of the label where it is the next token, and 0 where there is none."""


def targets_ahead(
    tokens_BS: torch.Tensor,
    labels_BS: torch.Tensor,
    loss_mask_BS: torch.Tensor,
    distance: int,
    document_starts: torch.Tensor | None,
) -> Targets:
    """Return the targets of the module that looks `distance` tokens ahead.

    The last tokens of a sample have none. With documents apart, given by where they begin among the tokens of all
    samples, neither have the last ones of a document: no token of another one is embedded or predicted.
    """
    ahead = Targets(
        tokens_BS=_ahead(tokens_BS, distance),
        labels_BS=_ahead(labels_BS, distance),
        loss_mask_BS=_ahead(loss_mask_BS, distance),
    )
    if document_starts is None:
        return ahead
    places = torch.arange(tokens_BS.numel(), device=tokens_BS.device, dtype=document_starts.dtype)
    # Counted from 1 on, so that what is moved in from behind a sample is of no document.
    documents_BS = torch.searchsorted(document_starts, places, right=True).view_as(tokens_BS)
    is_same_BS = documents_BS == _ahead(documents_BS, distance)
    return Targets(
        tokens_BS=ahead.tokens_BS * is_same_BS,
        labels_BS=ahead.labels_BS,
        loss_mask_BS=ahead.loss_mask_BS * is_same_BS,
    )


def _ahead(x_BS: torch.Tensor, distance: int) -> torch.Tensor:
    return pad(x_BS[:, distance:], (0, distance))
