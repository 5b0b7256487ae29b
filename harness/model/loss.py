"""Sums and counts of the loss per channel, kept on the device.

Shapes: S sequence, B micro batch, C channels.
"""

from __future__ import annotations

import torch


def channel_sums(
    loss_BS: torch.Tensor, loss_mask_BS: torch.Tensor, channel_ids_B: torch.Tensor, num_channels: int
) -> torch.Tensor:
    """Loss sum (nats) and token count of every channel: `[2, C]`, fp64.

    A product with a one-hot matrix, because adding by index is not deterministic on a GPU. fp64, so that the sums of
    a whole global batch are exact whatever the order in which ranks and micro-batches are added.
    """
    per_sample_B2 = torch.stack(((loss_BS * loss_mask_BS).sum(dim=1), loss_mask_BS.sum(dim=1)), dim=1)
    one_hot_CB = torch.arange(num_channels, device=channel_ids_B.device)[:, None] == channel_ids_B[None, :]
    return (one_hot_CB.double() @ per_sample_B2.double()).T
