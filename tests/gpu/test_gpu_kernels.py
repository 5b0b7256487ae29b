"""Every kernel that only a GPU runs, against the same mathematics in fp64 on the CPU, with gradients.

bf16 inputs are rounded before both sides see them, so what is compared is the kernel's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from harness.config.schema import ModelConfig
from harness.model.activation import geglu, gelu, swiglu
from harness.model.attention import SdpaCoreAttention, causal_segments, slow_kernels_on
from harness.model.cross_entropy import VocabularyShard, cross_entropy
from harness.model.fusion import on_device
from harness.model.norm import RMSNorm
from harness.model.rotary import Rotation, rotate

# torch's compiler warns about itself, and about fp32 products that could be faster with less precision.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32", "ignore:Online softmax")

TOLERANCES = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 3e-2, "atol": 5e-2}}
DTYPES = list(TOLERANCES)


Function = Callable[..., torch.Tensor]


def assert_same(kernel: Function, reference: Function, *inputs: torch.Tensor) -> None:
    """Both give the same output, and the same gradient of every input, for a random gradient of the output."""
    dtype = inputs[0].dtype
    exact = [x.double().requires_grad_() for x in inputs]
    ours = [x.cuda().requires_grad_() for x in inputs]
    output, expected = kernel(*ours), reference(*exact)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    output.backward(gradient.cuda().to(output.dtype))
    expected.backward(gradient.double())
    torch.testing.assert_close(output.detach().cpu().double(), expected.detach(), **TOLERANCES[dtype])
    for x, y in zip(ours, exact, strict=True):
        assert x.grad is not None
        torch.testing.assert_close(x.grad.cpu().double(), y.grad, **TOLERANCES[dtype])


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [swiglu, geglu, gelu])
def test_activation(function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    assert_same(on_device(function, torch.device("cuda")), function, random(256, 2, 512, dtype=dtype))


def attention_model(head_size: int) -> ModelConfig:
    return ModelConfig(
        num_layers=1,
        hidden_size=8 * head_size,
        num_attention_heads=8,
        num_query_groups=2,
        ffn_hidden_size=8,
        vocab_size=8,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
def test_rotation(head_size: int, dtype: torch.dtype, device: torch.device) -> None:
    rotation = Rotation(attention_model(head_size))
    cos, sin = rotation._table(256, torch.device("cpu"))

    def exact(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    assert_same(rotation, exact, random(256, 2, 8, head_size, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("borders", [False, True])
def test_attention(head_size: int, borders: bool, dtype: torch.dtype) -> None:
    rotation = Rotation(attention_model(head_size))
    attention = SdpaCoreAttention(rotation=rotation)
    segments = (torch.arange(256) // 100).repeat(2, 1) if borders else None
    mask = torch.ones(256, 256, dtype=torch.bool).tril() if segments is None else causal_segments(segments)

    def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key = (rotate(x.float(), *rotation._table(256, torch.device("cpu"))).double() for x in (query, key))
        key, value = (x.repeat_interleave(4, dim=2) for x in (key, value))
        scores = torch.einsum("sbnd,tbnd->bnst", query, key) / head_size**0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return torch.einsum("bnst,tbnd->sbnd", weights, value).flatten(2)

    heads = [random(256, 2, number, head_size, dtype=dtype, seed=number) for number in (8, 2, 2)]
    on_gpu = None if segments is None else causal_segments(segments.cuda())
    assert_same(lambda q, k, v: attention(q, k, v, on_gpu), exact, *heads)


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
    cross_entropy(logits * 1, labels, shard).sum().backward()  # compiles
    logits.grad = None
    copy = logits * 1
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = cross_entropy(copy, labels, shard)
    torch.autograd.grad(loss.sum(), copy)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 0.1 * logits.numel() * 2


def test_rms_norm_in_bf16() -> None:
    class Settings:
        params_dtype = torch.bfloat16
        sequence_parallel = False

    norm = RMSNorm(Settings(), 1024)
    assert_same(norm, lambda x: functional.rms_norm(x, (1024,), eps=1e-5), random(256, 2, 1024, dtype=torch.bfloat16))


def test_attention_is_as_fast_as_torch_can_make_it(device: torch.device) -> None:
    assert slow_kernels_on(device) is None
