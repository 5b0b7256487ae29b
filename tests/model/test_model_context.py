"""The cut of a sequence over context-parallel ranks: the one that Megatron and Transformer Engine expect."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from harness.config.model import ModelConfig
from harness.model import context
from harness.model.rotary import Rotation
from harness.parallel.ranks import Place

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    from megatron.core import utils

BATCH = torch.arange(2 * 24).view(2, 24)


def megatrons_part(whole: torch.Tensor, cp: Place, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What Megatron gives this rank (its function asks a process group for rank and size, nothing else)."""
    group = SimpleNamespace(size=lambda: cp.size, rank=lambda: cp.rank)
    cut = getattr(utils, "_get_batch_on_this_cp_rank_per_sequence_balancing", utils.get_batch_on_this_cp_rank)
    for module, size, rank in ((utils, "get_pg_size", "get_pg_rank"), (dist, "get_world_size", "get_rank")):
        monkeypatch.setattr(module, size, lambda group: group.size())
        monkeypatch.setattr(module, rank, lambda group: group.rank())
    part: torch.Tensor = cut({"tokens": whole}, cp_group=group)["tokens"]
    return part


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_rank_gets_what_megatron_would_give_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(size):
        cp = Place(rank=rank, size=size)
        assert torch.equal(context.own_part(BATCH, cp), megatrons_part(BATCH, cp, monkeypatch))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_together_hold_every_place_once_and_know_which(size: int) -> None:
    parts, places = [], []
    for rank in range(size):
        cp = Place(rank=rank, size=size)
        part = context.own_part(BATCH, cp)
        parts.append(part)
        places.append(context.positions(part.size(1), cp))
    together = torch.cat(places)
    assert together.sort().values.tolist() == list(range(24))
    assert torch.equal(torch.cat(parts, dim=1), BATCH[:, together])


def test_an_early_slice_is_paired_with_a_late_one() -> None:
    assert context.positions(4, Place(rank=0, size=2)).tolist() == [0, 1, 6, 7]
    assert context.positions(4, Place(rank=1, size=2)).tolist() == [2, 3, 4, 5]


def test_tokens_are_rotated_by_their_place_in_the_whole_sequence() -> None:
    model = ModelConfig(num_layers=1, hidden_size=16, num_attention_heads=2, ffn_hidden_size=16, vocab_size=8)
    whole_SBND = torch.randn(24, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    expected = Rotation(model)(whole_SBND)
    for rank in range(3):
        cp = Place(rank=rank, size=3)
        own = whole_SBND[context.positions(8, cp)]
        assert torch.equal(Rotation(model, cp)(own), expected[context.positions(8, cp)])
