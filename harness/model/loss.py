"""Sums and counts of the loss per sample and per channel, kept on the device.

Shapes: S sequence, B micro batch, C channels.
"""

from __future__ import annotations

import torch


def per_sample_sums(loss_BS: torch.Tensor, loss_mask_BS: torch.Tensor) -> torch.Tensor:
    """Return loss sum (nats) and token count of every sample: `[B, 2]`, fp64.

    In fp64 the sums over a global batch do not depend on the order in which ranks and micro-batches are added.
    """
    return torch.stack(((loss_BS * loss_mask_BS).double().sum(dim=1), loss_mask_BS.double().sum(dim=1)), dim=1)


def by_channel(per_sample_B2: torch.Tensor, channel_ids_B: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Return loss sum and token count of every channel: `[2, C]`, fp64.

    Selects by a mask. An addition by index is not deterministic on a GPU, and a product with a one-hot matrix would
    spread a sample's NaN over every channel.
    """
    is_channel_CB1 = (torch.arange(num_channels, device=channel_ids_B.device)[:, None] == channel_ids_B)[..., None]
    return torch.where(is_channel_CB1, per_sample_B2, torch.zeros_like(per_sample_B2)).sum(dim=1).T
