"""Core attention against softmax written out, and what is said where it would be slow."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.model.attention import core as attention
from harness.model.attention.bounds import documents_at
from harness.model.attention.core import CoreAttention, slow_kernels

S, B, N, D = 7, 2, 4, 8
STARTS = [0, 3, 5, 7, 8, 14]
"""Documents of two samples of seven tokens."""


def inputs(groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    return [torch.randn(S, B, heads, D, generator=generator).requires_grad_() for heads in (N, groups, groups)]


def packed(starts: list[int]) -> SimpleNamespace:
    """What Megatron hands to every layer."""
    return SimpleNamespace(documents=documents_at(torch.tensor(starts, dtype=torch.int32)))


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: list[int]) -> torch.Tensor:
    number = torch.bucketize(torch.arange(B * S), torch.tensor(starts), right=True).view(B, 1, S)
    may_look = (number[..., None] == number[:, :, None]) & torch.ones(S, S, dtype=torch.bool).tril()
    key, value = (x.repeat_interleave(N // x.size(2), dim=2) for x in (key, value))
    scores = torch.einsum("ibnd,jbnd->bnij", query, key) / math.sqrt(D)
    weights = scores.masked_fill(~may_look, -math.inf).softmax(dim=-1)
    return torch.einsum("bnij,jbnd->ibnd", weights, value).reshape(S, B, N * D)


@pytest.mark.parametrize("starts", [None, STARTS])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_and_its_gradients_are_those_of_softmax_written_out(groups: int, starts: list[int] | None) -> None:
    results = []
    for one in (
        lambda *x: CoreAttention()(*x, packed_seq_params=None if starts is None else packed(starts)),
        lambda *x: written_out(*x, starts or [0, S, 2 * S]),
    ):
        parts = inputs(groups)
        output = one(*parts)
        output.square().sum().backward()
        results.append((output.detach(), *(x.grad for x in parts)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=5e-6)


def test_documents_do_not_see_each_other() -> None:
    query, key, value = (x.detach() for x in inputs(2))
    found = CoreAttention()(query, key, value, packed_seq_params=packed(STARTS))
    value[:3, 0] = 100.0
    again = CoreAttention()(query, key, value, packed_seq_params=packed(STARTS))
    assert torch.equal(again[3:, 0], found[3:, 0])
    assert torch.equal(again[:, 1], found[:, 1])
    assert not torch.equal(again[:3, 0], found[:3, 0])


@pytest.mark.parametrize("shared_keys_must_be_told", [False, True])
def test_a_gpu_takes_all_documents_in_one_launch(
    shared_keys_must_be_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, by the function of torch 2.11 and that of 2.13: shapes, borders, causality, shared keys."""
    from torch.nn.attention import varlen

    told: list[dict[str, object]] = []

    def older(*arguments: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> torch.Tensor:
        query, key, value, starts, same_starts, *longest = arguments
        assert (query.shape, key.shape, value.shape) == ((S * B, N, D), (S * B, 2, D), (S * B, 2, D))
        assert starts is same_starts
        told.append({"longest": longest, "scale": scale, "window": window_size})
        return torch.empty_like(query)

    def newer(*arguments: Any, enable_gqa: bool = False, **keywords: Any) -> torch.Tensor:
        assert enable_gqa
        return older(*arguments, **keywords)

    monkeypatch.setattr(varlen, "varlen_attn", newer if shared_keys_must_be_told else older)
    parts = [x.detach().bfloat16().to("meta") for x in inputs(2)]
    output = CoreAttention(softmax_scale=0.5)(*parts, packed_seq_params=packed(STARTS))
    assert output.shape == (S, B, N * D)
    assert told == [{"longest": [6, 6], "scale": 0.5, "window": (-1, 0)}]


def test_no_kernel_with_a_square_matrix_is_a_fallback() -> None:
    assert attention.SDPBackend.MATH not in attention._GPU_KERNELS


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
