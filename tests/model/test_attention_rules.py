"""Windows, caps and sinks of attention against softmax written out, in tiles and by the way of FlashAttention."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.config.model import ModelConfig
from harness.model.attention import tiles
from harness.model.attention.bounds import Bounds, Sequences, documents_at
from harness.model.attention.core import CoreAttention
from harness.model.attention.flash import FlashKernels, SinkAttention, attend_in_one_launch
from harness.model.attention.rules import Rules, rules_of

S, B, N, D = 11, 2, 4, 8
STARTS = [0, 3, 9, 11, 12, 22]
"""Documents of two samples of eleven tokens."""
RULES = {
    "window": Rules(window=3),
    "window-of-one": Rules(window=1),
    "window-over-all": Rules(window=S),
    "cap": Rules(cap=0.5),
    "scale": Rules(scale=0.9),
    "all": Rules(scale=0.7, window=4, cap=1.5),
}


def inputs(groups: int, heads: int = N) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    return [torch.randn(S, B, each, D, generator=generator).requires_grad_() for each in (heads, groups, groups)]


def packed(starts: list[int]) -> SimpleNamespace:
    return SimpleNamespace(documents=documents_at(torch.tensor(starts, dtype=torch.int32)))


def written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rules: Rules,
    sinks_N: torch.Tensor | None,
    starts: list[int] | None,
) -> torch.Tensor:
    length, batch, heads = query.shape[:3]
    borders = torch.tensor(starts or [*range(0, batch * length + 1, length)])
    number = torch.bucketize(torch.arange(batch * length), borders, right=True).view(batch, 1, length)
    behind = torch.arange(length)[:, None] - torch.arange(length)
    may_look = (number[..., None] == number[:, :, None]) & (behind >= 0) & (behind < (rules.window or length))
    key, value = (x.repeat_interleave(heads // x.size(2), dim=2) for x in (key, value))
    scores = torch.einsum("ibnd,jbnd->bnij", query, key) * (rules.scale or 1 / math.sqrt(D))
    if rules.cap is not None:
        scores = rules.cap * torch.tanh(scores / rules.cap)
    weights = scores.masked_fill(~may_look, -math.inf).exp()
    total = weights.sum(dim=-1, keepdim=True)
    if sinks_N is not None:
        total = total + sinks_N.exp().view(1, -1, 1, 1)
    return torch.einsum("bnij,jbnd->ibnd", weights / total, value).reshape(length, batch, -1)


def both_ways(ours: object, exact: object, *parts: torch.Tensor) -> None:
    """Same output, and the same gradient of every input."""
    results = []
    for one in (ours, exact):
        fresh = [x.detach().clone().requires_grad_() for x in parts]
        output = one(*fresh)  # type: ignore[operator]
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
        results.append((output.detach(), *(x.grad for x in fresh)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("starts", [None, STARTS], ids=["samples", "documents"])
@pytest.mark.parametrize("with_sinks", [False, True], ids=["no-sinks", "sinks"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", RULES)
def test_attention_by_rules(
    name: str, groups: int, with_sinks: bool, starts: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_FEWEST_QUERIES", 4)
    rules, parts = RULES[name], inputs(groups)
    sinks = [torch.linspace(-1.0, 2.0, N)] if with_sinks else []

    def ours(*given: torch.Tensor) -> torch.Tensor:
        query, key, value, *sink = given
        core = CoreAttention(rules=rules, sinks_N=sink[0] if sink else None)
        return core(query, key, value, packed_seq_params=None if starts is None else packed(starts))

    def exact(*given: torch.Tensor) -> torch.Tensor:
        query, key, value, *sink = given
        return written_out(query, key, value, rules, sink[0] if sink else None, starts)

    both_ways(ours, exact, *parts, *sinks)


class CpuFlash:
    """torch's FlashAttention for a CPU, in the place of that for a GPU: one sample, all tokens."""

    def forward(
        self, query_TND: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [x.transpose(0, 1)[None] for x in (query_TND, key_TGD, value_TGD)]
        output, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, True)
        return output[0].transpose(0, 1), log_sums[0]

    def backward(
        self,
        gradient_TND: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
        output_TND: torch.Tensor,
        log_sums_NT: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        parts = [x.transpose(0, 1)[None].contiguous() for x in (gradient_TND, *inputs, output_TND)]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *parts, log_sums_NT[None], 0.0, True
        )
        return tuple(x[0].transpose(0, 1) for x in gradients)


def test_a_flash_kernel_without_sinks_computes_those_with_them() -> None:
    """The formula that GPUs use, by the same algorithm's kernel for a CPU."""
    query, key, value = (x[:, 0].detach() for x in inputs(N))

    def exact(*given: torch.Tensor) -> torch.Tensor:
        query, key, value = (x[:, None].expand(S, B, N, D) for x in given[:3])
        return written_out(query, key, value, Rules(), given[3], None)[:, 0].view(S, N, D)

    both_ways(lambda *x: SinkAttention.apply(*x, CpuFlash()), exact, query, key, value, torch.linspace(-1.0, 2.0, N))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_a_gpu_launches_flash_attention(window: int | None, with_sinks: bool) -> None:
    """On the meta device: the arguments fit torch's operators, and shapes and formats come out right."""
    sizes = ((B * S, N, D), (B * S, 2, D), (B * S, 2, D))
    parts = [torch.empty(size, device="meta", dtype=torch.bfloat16, requires_grad=True) for size in sizes]
    sinks = nn.Parameter(torch.empty(N, device="meta", dtype=torch.bfloat16)) if with_sinks else None
    bounds = Bounds(torch.empty(3, device="meta", dtype=torch.int32), S)
    output = attend_in_one_launch(*parts, Sequences(bounds, bounds), Rules(window=window), sinks)
    assert (output.shape, output.dtype) == (parts[0].shape, torch.bfloat16)
    output.backward(torch.empty_like(output))
    for tensor in (*parts, *([] if sinks is None else [sinks])):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape


@pytest.mark.parametrize(("window", "options"), [(None, (True, -1, 0)), (3, (False, 2, 0)), (1, (False, 0, 0))])
def test_flash_attention_counts_the_tokens_before_a_token(window: int | None, options: tuple[bool, int, int]) -> None:
    """A window of 3 is the token and 2 before it; torch takes causality alone, or a window that ends at the token."""
    bounds = Bounds(torch.tensor([0, S]), S)
    kernels = FlashKernels(Sequences(bounds, bounds), Rules(window=window))
    given = kernels._options()
    assert (kernels._is_causal(), given["window_size_left"], given["window_size_right"]) == options


def test_a_window_sees_what_stands_in_it() -> None:
    query, key, value = (x.detach() for x in inputs(2))
    core = CoreAttention(rules=Rules(window=3))
    found = core(query, key, value)
    value[4] = 100.0
    changed = (core(query, key, value) != found).flatten(1).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [4, 5, 6]


def test_rules_of_layers() -> None:
    sizes = {"num_layers": 6, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 32, "vocab_size": 8}
    model = ModelConfig(
        **sizes, window_size=5, window_attn_skip_freq=3, softmax_scale=0.25, attn_logit_softcapping=50.0
    )
    windows = [rules_of(model, layer).window for layer in range(6)]
    assert windows == [5, 5, None, 5, 5, None]
    assert rules_of(model, 0, scale=0.5) == Rules(scale=0.25, window=5, cap=50.0)
    assert rules_of(ModelConfig(**sizes), 0, scale=0.5) == Rules(scale=0.5)


def test_memory_of_tiles_grows_with_the_length_only() -> None:
    """No tensor is as large as S×S, neither kept for backward nor made."""
    length, window = 1024, 16
    parts = [torch.randn(1, 2, length, D, requires_grad=True) for _ in range(3)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        output = tiles.attend_in_tiles(*parts, Rules(window=window, cap=2.0), None)
    output.sum().backward()
    assert sum(kept) < 20 * 2 * length * D < 2 * length * length
