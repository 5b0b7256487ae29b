"""Core attention against softmax written out."""

from __future__ import annotations

import math

import pytest
import torch

from harness.config.schema import ModelConfig
from harness.model.attention import SdpaCoreAttention, causal_segments
from harness.model.rotary import Rotation

S, B, N, D = 7, 2, 4, 8


def rotation() -> Rotation:
    sizes = {"num_layers": 1, "hidden_size": N * D, "num_attention_heads": N, "ffn_hidden_size": 8, "vocab_size": 16}
    return Rotation(ModelConfig(**sizes))


def inputs(groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    return [torch.randn(S, B, heads, D, generator=generator) for heads in (N, groups, groups)]


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, may_look: torch.Tensor) -> torch.Tensor:
    turn = rotation()
    query, key = turn(query), turn(key)
    key, value = (x.repeat_interleave(N // x.size(2), dim=2) for x in (key, value))
    scores = torch.einsum("ibnd,jbnd->bnij", query, key) / math.sqrt(D)
    weights = scores.masked_fill(~may_look, -math.inf).softmax(dim=-1)
    return torch.einsum("bnij,jbnd->ibnd", weights, value).reshape(S, B, N * D)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_is_causal_softmax(groups: int) -> None:
    query, key, value = inputs(groups)
    expected = written_out(query, key, value, torch.ones(S, S, dtype=torch.bool).tril())
    found = SdpaCoreAttention(rotation=rotation())(query, key, value, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_segments_do_not_see_each_other() -> None:
    query, key, value = inputs(2)
    segments_BS = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1]])
    mask = causal_segments(segments_BS)
    expected = written_out(query, key, value, mask)
    found = SdpaCoreAttention(rotation=rotation())(query, key, value, mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    changed = value.clone()
    changed[:3, 0] = 100.0
    again = SdpaCoreAttention(rotation=rotation())(query, key, changed, mask)
    assert torch.equal(again[3:, 0], found[3:, 0])


def test_causal_segments_by_hand() -> None:
    assert causal_segments(torch.tensor([[0, 0, 1]]))[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [False, False, True],
    ]
