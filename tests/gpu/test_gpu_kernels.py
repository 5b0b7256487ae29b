"""Every kernel that only a GPU runs, against the same mathematics in fp64 on the CPU, with gradients.

bf16 inputs are rounded before both sides see them, so what is compared is the kernel's own rounding.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from compared import DTYPES, assert_same, random
from torch.nn import functional

from harness.config.model import ModelConfig
from harness.model import rotary
from harness.model.activation import KINDS, Activation
from harness.model.attention.bounds import documents_at
from harness.model.attention.core import CoreAttention, slow_kernels_on
from harness.model.attention.rules import Rules
from harness.model.cross_entropy import VocabularyShard, cross_entropy
from harness.model.norm import RMSNorm, rms_norm_behind_sum
from harness.model.rotary import Rotation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_activation(kind: str, dtype: torch.dtype) -> None:
    assert_same(Activation(kind=kind), KINDS[kind].plain, random(256, 2, 512, dtype=dtype))


def attention_model(head_size: int) -> ModelConfig:
    return ModelConfig(
        num_layers=1,
        hidden_size=8 * head_size,
        num_attention_heads=8,
        num_query_groups=2,
        ffn_hidden_size=8,
        vocab_size=8,
    )


def exactly_rotated(rotation: Rotation, x: torch.Tensor) -> torch.Tensor:
    cos, sin = rotation._table(256, torch.device("cpu"))
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
def test_rotation(head_size: int, dtype: torch.dtype) -> None:
    rotation = Rotation(attention_model(head_size))
    x = random(256, 2, 8, head_size, dtype=dtype)
    assert_same(rotation, lambda y: exactly_rotated(rotation, y), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("by_sample", [False, True])
def test_cut_and_rotation(by_sample: bool, head_size: int, dtype: torch.dtype) -> None:
    rotation = Rotation(attention_model(head_size))

    def exact(mixed: torch.Tensor) -> torch.Tensor:
        query, key, value = rotary.split(mixed, head_size)
        return torch.cat((exactly_rotated(rotation, query), exactly_rotated(rotation, key), value), dim=2)

    mixed = random(256, 2, 2, 6 * head_size, dtype=dtype)
    assert_same(lambda x: torch.cat(rotation.split(x, head_size, by_sample=by_sample), dim=2), exact, mixed)


STARTS = [0, 100, 256, 300, 301, 512]
"""Documents of two samples of 256 tokens."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("starts", [None, STARTS], ids=["samples", "documents"])
def test_attention(starts: list[int] | None, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
    number = torch.bucketize(torch.arange(512), torch.tensor(starts or [0, 256, 512]), right=True).view(2, 1, 256)
    mask = (number[..., None] == number[:, :, None]) & torch.ones(256, 256, dtype=torch.bool).tril()
    packed = None
    if starts is not None:
        packed = SimpleNamespace(documents=documents_at(torch.tensor(starts, dtype=torch.int32), device))

    def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = (x.repeat_interleave(4, dim=2) for x in (key, value))
        scores = torch.einsum("sbnd,tbnd->bnst", query, key) / head_size**0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)

    heads = [random(256, 2, number, head_size, dtype=dtype, seed=number) for number in (8, 2, 2)]
    assert_same(lambda q, k, v: CoreAttention()(q, k, v, packed_seq_params=packed), exact, *heads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_sinks", [False, True], ids=["no-sinks", "sinks"])
@pytest.mark.parametrize("rules", [Rules(window=32), Rules(), Rules(cap=2.0), Rules(window=32, cap=2.0)], ids=str)
@pytest.mark.parametrize("starts", [None, STARTS], ids=["samples", "documents"])
def test_attention_by_rules(
    starts: list[int] | None, rules: Rules, with_sinks: bool, dtype: torch.dtype, device: torch.device
) -> None:
    number = torch.bucketize(torch.arange(512), torch.tensor(starts or [0, 256, 512]), right=True).view(2, 1, 256)
    behind = torch.arange(256)[:, None] - torch.arange(256)
    mask = (number[..., None] == number[:, :, None]) & (behind >= 0) & (behind < (rules.window or 256))
    packed = None
    if starts is not None:
        packed = SimpleNamespace(documents=documents_at(torch.tensor(starts, dtype=torch.int32), device))

    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        core = CoreAttention(rules=rules, sinks_N=sinks[0] if sinks else None)
        return core(query, key, value, packed_seq_params=packed)

    def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        key, value = (x.repeat_interleave(4, dim=2) for x in (key, value))
        scores = torch.einsum("sbnd,tbnd->bnst", query, key) / 64**0.5
        if rules.cap is not None:
            scores = rules.cap * torch.tanh(scores / rules.cap)
        scores = scores.masked_fill(~mask, float("-inf"))
        if sinks:
            scores = torch.cat((scores, sinks[0].view(1, -1, 1, 1).expand(2, 8, 256, 1)), dim=-1)
        weights = scores.softmax(-1)[..., :256]
        return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)

    heads = [random(256, 2, number, 64, dtype=dtype, seed=number) for number in (8, 2, 2)]
    assert_same(ours, exact, *heads, *([random(8, dtype=dtype)] if with_sinks else []))


def test_documents_make_no_square_matrix(device: torch.device) -> None:
    length = 8192
    parts = [torch.randn(length, 1, heads, 64, device=device, dtype=torch.bfloat16) for heads in (8, 2, 2)]
    starts = torch.arange(0, length + 1, 512, dtype=torch.int32)
    packed = SimpleNamespace(documents=documents_at(starts, device))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    CoreAttention()(*parts, packed_seq_params=packed)
    assert torch.cuda.max_memory_allocated() - before < length * length / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [256, 1009])
def test_cross_entropy(rows: int, dtype: torch.dtype) -> None:
    logits = 4 * random(rows, 1, 32128, dtype=dtype)
    labels = torch.randint(32003, (rows, 1), generator=torch.Generator().manual_seed(1))
    shard = VocabularyShard(first_id=0, num_true=32003, group=None)

    def exact(x: torch.Tensor) -> torch.Tensor:
        true = x[..., :32003].flatten(0, 1)
        return functional.cross_entropy(true, labels.flatten(), reduction="none").view(rows, 1)

    assert_same(lambda x: cross_entropy(x * 1, labels.cuda(), shard), exact, logits)


def test_cross_entropy_needs_no_copy_of_the_logits() -> None:
    logits = torch.randn(4096, 1, 128256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(128256, (4096, 1), device="cuda")
    shard = VocabularyShard(first_id=0, num_true=128256, group=None)
    copy = logits * 1
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = cross_entropy(copy, labels, shard)
    torch.autograd.grad(loss.sum(), copy)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 0.1 * logits.numel() * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 1024, 4096])
def test_rms_norm(width: int, dtype: torch.dtype) -> None:
    class Settings:
        params_dtype = dtype
        sequence_parallel = False

    norm = RMSNorm(Settings(), width)
    assert_same(norm, lambda x: functional.rms_norm(x, (width,), eps=1e-5), random(256, 2, width, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_behind_a_sum(dtype: torch.dtype) -> None:
    def exact(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        total = x + residual
        return torch.cat((total, functional.rms_norm(total, (1024,), weight, eps=1e-5)))

    parts = [random(256, 2, 1024, dtype=dtype, seed=seed) for seed in (1, 2)]
    assert_same(
        lambda x, residual, weight: torch.cat(rms_norm_behind_sum(x, residual, weight, 1e-5)),
        exact,
        *parts,
        random(1024, dtype=dtype, seed=3),
    )


def test_attention_is_as_fast_as_torch_can_make_it(device: torch.device) -> None:
    assert slow_kernels_on(device) is None
