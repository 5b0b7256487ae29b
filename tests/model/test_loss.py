"""Sums and counts per sample, per channel and per place."""

from __future__ import annotations

import math

import torch

from harness.model.loss import Sums, by_channel, by_place, per_sample_sums

LOSS_BS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [64.0, 128.0, 256.0]])
MASK_BS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


def test_masked_tokens_are_neither_summed_nor_counted() -> None:
    assert per_sample_sums(LOSS_BS, MASK_BS).tolist() == [[3.0, 2.0], [16.0, 1.0], [448.0, 3.0]]


def test_every_channel_gets_its_samples() -> None:
    sums = by_channel(per_sample_sums(LOSS_BS, MASK_BS), torch.tensor([2, 0, 2]), 3)
    assert sums.tolist() == [[16.0, 0.0, 451.0], [1.0, 0.0, 5.0]]
    assert sums.dtype == torch.float64


def test_not_a_number_stays_in_its_channel() -> None:
    spoilt = LOSS_BS.clone()
    spoilt[1, 1] = math.nan
    losses, counts = by_channel(per_sample_sums(spoilt, MASK_BS), torch.tensor([2, 0, 1]), 3).tolist()
    assert math.isnan(losses[0])
    assert (losses[1], losses[2]) == (448.0, 3.0)
    assert counts == [1.0, 3.0, 2.0]


def test_the_order_of_addition_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    loss_BS = torch.rand(64, 128, generator=generator) * 12
    channels = torch.randint(0, 3, (64,), generator=generator)
    mask = torch.ones_like(loss_BS)
    whole = by_channel(per_sample_sums(loss_BS, mask), channels, 3)
    pieces = [by_channel(per_sample_sums(loss_BS[i::7], mask[i::7]), channels[i::7], 3) for i in range(7)]
    torch.testing.assert_close(torch.stack(pieces).sum(dim=0), whole, rtol=1e-14, atol=0)


def test_places_of_a_channel_are_summed_up_apart() -> None:
    places_BS = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 0]])
    channels_B = torch.tensor([1, 0, 1])
    sums = by_place(LOSS_BS, MASK_BS, channels_B, places_BS, Sums(2, 3))
    assert sums.dtype == torch.float64
    losses, counts = sums.tolist()
    assert losses == [16.0, 0.0, 0.0, 1.0 + 256.0, 2.0 + 64.0 + 128.0, 0.0]
    assert counts == [1.0, 0.0, 0.0, 2.0, 3.0, 0.0]


def test_not_a_number_stays_in_its_place() -> None:
    spoilt = LOSS_BS.clone()
    spoilt[0, 1] = math.nan
    places_BS = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 0]])
    losses, _ = by_place(spoilt, MASK_BS, torch.tensor([1, 0, 1]), places_BS, Sums(2, 2)).tolist()
    assert [math.isnan(loss) for loss in losses] == [False, False, False, True]
