"""Core attention against one that makes the S×S matrix, and what is said where it would be slow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from harness.config.schema import ModelConfig
from harness.model.attention import SdpaCoreAttention, causal_segments, rotated, slow_kernels
from harness.model.rotary import Rotation

MODEL = ModelConfig(num_layers=1, hidden_size=32, num_attention_heads=4, ffn_hidden_size=8, vocab_size=8)
LENGTH, BATCH, HEADS, GROUPS, HEAD = 12, 2, 4, 2, 8


def queries_keys_values() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(LENGTH, BATCH, heads, HEAD, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


class PlainAttention(nn.Module):
    """Attention as in a textbook, in the form of Megatron's core attention."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        key, value = (x.repeat_interleave(HEADS // GROUPS, dim=2) for x in (key, value))
        scores = torch.einsum("sbnd,tbnd->bnst", query, key) / math.sqrt(HEAD)
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() if attention_mask is None else attention_mask
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)


@pytest.mark.parametrize("segments", [None, torch.tensor([[0] * 5 + [1] * 7, [0] * 12])])
def test_attention_and_its_gradients_are_the_textbooks(segments: torch.Tensor | None) -> None:
    mask = None if segments is None else causal_segments(segments)
    results = []
    for attention in (
        SdpaCoreAttention(rotation=Rotation(MODEL)),
        rotated(PlainAttention, Rotation(MODEL))(),
    ):
        inputs = [x.requires_grad_() for x in queries_keys_values()]
        output = attention(*inputs, mask)
        output.square().sum().backward()
        results.append((output.detach(), *(x.grad for x in inputs)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_segments_do_not_see_each_other() -> None:
    mask = causal_segments(torch.tensor([[0, 0, 1]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


@pytest.mark.parametrize(
    ("version", "capability"), [(91501, (9, 0)), (92000, (10, 0)), (None, (8, 0)), (90000, (8, 9))]
)
def test_nothing_is_said_where_attention_is_fast_or_cannot_be_faster(
    version: int | None, capability: tuple[int, int]
) -> None:
    assert slow_kernels(version, capability) is None


@pytest.mark.parametrize(("version", "loaded"), [(91500, "cuDNN 9.15.0"), (90800, "cuDNN 9.8.0"), (None, "no cuDNN")])
def test_an_old_cudnn_is_named_with_the_way_out(version: int | None, loaded: str) -> None:
    text = slow_kernels(version, (9, 0))
    assert text is not None
    assert text.startswith(f"torch has loaded {loaded}; attention on this GPU needs 9.15.1 or newer to be fast")
    assert "take that folder out of LD_LIBRARY_PATH, or update nvidia-cudnn" in text
