"""Batches: the tensors of one micro-batch, made from rows of tokens.

B: samples in the micro-batch, S: seq_length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One micro-batch."""

    tokens_BS: Tensor
    """Inputs, int64."""
    labels_BS: Tensor
    """The token after each input, int64."""
    loss_mask_BS: Tensor
    """Weight of each label, float32: 1 where it counts, 0 where it does not: in padding, and with `eod_mask_loss` where
    it is the first token of the next document."""
    channel_ids_B: Tensor
    """Channel of each sample, int64."""
    document_starts: Tensor | None
    """With reset at document borders: where documents begin among the tokens of all samples, one sample behind the
    other, and the number of tokens at the end, `[documents + 1]`, int32. Tokens attend within their document; what is
    left of a document that began in an earlier sample is one, and so is padding."""
    position_ids_BS: Tensor
    """Place of each token, int64: in its document with reset, else in its sample. A document that began in an earlier
    sample starts again at 0."""
    places_BS: Tensor | None = None
    """Of held-out samples whose losses are summed up apart within a channel: number of the sum of each label, int64.
    None: all are in the first."""

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies without waiting."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; pinned memory is copied while the device computes."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {n: change(t) if isinstance(t, Tensor) else t for n, t in vars(self).items()}
        return Batch(**changed)


def collate(
    rows: npt.NDArray[np.int64],
    tokens_by_document: Sequence[Sequence[int]],
    channel_ids: npt.NDArray[np.int64],
    *,
    reset_at_document_borders: bool,
    eod_mask_loss: bool | None = None,
) -> Batch:
    """Make a batch of token rows.

    Args:
        rows: Tokens, [B, S + 1]; what follows the documents of a row is padding.
        tokens_by_document: For each row, how many of its tokens each document gave, in order.
        channel_ids: Channel of each row, [B].
        reset_at_document_borders: Whether documents are kept apart.
        eod_mask_loss: Whether the first token of a document does not count where another one stands before it in the
            row. Default: if documents are kept apart.
    """
    batch_size, width = rows.shape
    loss_mask = np.ones((batch_size, width - 1), dtype=np.float32)
    for row, counts in enumerate(tokens_by_document):
        loss_mask[row, max(0, sum(counts) - 1) :] = 0
    starts, positions = None, np.tile(np.arange(width - 1), (batch_size, 1))
    wide = np.stack([_segments(counts, width) for counts in tokens_by_document])
    if reset_at_document_borders if eod_mask_loss is None else eod_mask_loss:
        loss_mask *= wide[:, 1:] == wide[:, :-1]
    if reset_at_document_borders:
        begins = _begins(wide[:, :-1])
        positions = positions - np.maximum.accumulate(np.where(begins, positions, 0), axis=1)
        starts = np.append(np.flatnonzero(begins), begins.size).astype(np.int32)
    tokens_and_labels = torch.from_numpy(rows)
    return Batch(
        tokens_BS=tokens_and_labels[:, :-1].contiguous(),
        labels_BS=tokens_and_labels[:, 1:].contiguous(),
        loss_mask_BS=torch.from_numpy(loss_mask),
        channel_ids_B=torch.from_numpy(channel_ids),
        document_starts=None if starts is None else torch.from_numpy(starts),
        position_ids_BS=torch.from_numpy(positions),
    )


def _segments(counts: Sequence[int], width: int) -> npt.NDArray[np.int32]:
    """Return the document number of each token of one row, [width]; padding counts as one more document."""
    padded = [*counts, width - sum(counts)]
    return np.repeat(np.arange(len(padded), dtype=np.int32), padded)


def _begins(segments: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return whether a document begins at each token, [B, S]."""
    begins = np.ones(segments.shape, dtype=np.bool_)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return begins
