"""Sums and counts of the loss per sample, per channel and per place, kept on the device.

Shapes: S sequence, B micro batch, C channels, P places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sums:
    """Numbers of the sums that losses are added to."""

    num_channels: int
    num_places: int = 1
    """Sums of each channel."""

    def __len__(self) -> int:
        return self.num_channels * self.num_places


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


def by_place(
    loss_BS: torch.Tensor, loss_mask_BS: torch.Tensor, channel_ids_B: torch.Tensor, places_BS: torch.Tensor, sums: Sums
) -> torch.Tensor:
    """Return loss sum and token count of every place of every channel: `[2, C·P]`, fp64; places of a channel adjoin."""
    sums_of_places = [
        by_channel(
            per_sample_sums(torch.where(places_BS == place, loss_BS, 0.0), loss_mask_BS * (places_BS == place)),
            channel_ids_B,
            sums.num_channels,
        )
        for place in range(sums.num_places)
    ]
    return torch.stack(sums_of_places, dim=2).flatten(1)
