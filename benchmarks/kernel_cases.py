"""Every Triton kernel at work, for the tools that count its bytes and compile it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.model.activation import KINDS, ActivationKernel
from harness.model.cross_entropy import launch_gradients, launch_log_sums
from harness.model.norm import RMSNormBehindSumKernel, RMSNormKernel
from harness.model.rotary import RotationKernel, SplitKernel

BF16 = 2


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a model, and of a micro-batch."""

    rows: int
    hidden: int
    ffn: int
    vocabulary: int
    heads: int
    groups: int
    head: int


@dataclass(frozen=True)
class Case:
    """A kernel at work: `prepare` returns what runs it once, `least` are the bytes that its task needs."""

    name: str
    prepare: Callable[[], Callable[[], object]]
    least: int


def cases(sizes: Sizes) -> list[Case]:
    """Return every kernel, forward and backward, on bf16 tensors of these sizes.

    The least is every input read once and every output written once, what backward keeps of a row included.
    """
    return [*_norms(sizes), *_rotations(sizes), *_losses(sizes), *_activations(sizes)]


def _norms(sizes: Sizes) -> list[Case]:
    def row() -> torch.Tensor:
        return _random(sizes.rows, 1, sizes.hidden)

    def weight() -> torch.Tensor:
        return _random(sizes.hidden)

    row_bytes, once = sizes.rows * sizes.hidden * BF16, sizes.hidden * BF16 + sizes.rows * 4
    alone, behind = RMSNormKernel, RMSNormBehindSumKernel
    dweight = sizes.hidden * BF16
    return [
        Case("RMSNorm, forward", lambda: _forward(alone, row(), weight(), 1e-5), 2 * row_bytes + once),
        Case("RMSNorm, backward", lambda: _backward(alone, row(), weight(), 1e-5), 3 * row_bytes + once + dweight),
        Case(
            "residual and RMSNorm, forward",
            lambda: _forward(behind, row(), row(), weight(), 1e-5),
            4 * row_bytes + once,
        ),
        Case(
            "residual and RMSNorm, backward",
            lambda: _backward(behind, row(), row(), weight(), 1e-5),
            4 * row_bytes + once + dweight,
        ),
    ]


def _rotations(sizes: Sizes) -> list[Case]:
    def projection() -> torch.Tensor:
        return _random(sizes.rows, 1, sizes.groups, (sizes.heads // sizes.groups + 2) * sizes.head)

    def query() -> torch.Tensor:
        return _random(sizes.rows, 1, sizes.heads, sizes.head)

    tables = torch.ones(sizes.rows, 1, 1, sizes.head // 2), torch.ones(sizes.rows, 1, 1, sizes.head // 2)
    table_bytes, head_bytes = sizes.rows * sizes.head * 4, sizes.rows * sizes.head * BF16
    least = 2 * (sizes.heads + 2 * sizes.groups) * head_bytes + table_bytes
    return [
        Case("cut and rotation of QKV, forward", lambda: _forward(SplitKernel, projection(), *tables, False), least),
        Case("cut and rotation of QKV, backward", lambda: _backward(SplitKernel, projection(), *tables, False), least),
        Case(
            "rotation alone",
            lambda: _forward(RotationKernel, query(), *tables),
            2 * sizes.heads * head_bytes + table_bytes,
        ),
    ]


def _losses(sizes: Sizes) -> list[Case]:
    def logits() -> torch.Tensor:
        return _random(sizes.rows, sizes.vocabulary).detach()

    labels = torch.randint(sizes.vocabulary, (sizes.rows,))
    numbers = [torch.ones(sizes.rows) for _ in range(3)]
    logits_bytes, row_bytes = sizes.rows * sizes.vocabulary * BF16, sizes.rows * (8 + 3 * 4)
    return [
        Case(
            "cross-entropy, forward",
            lambda: functools.partial(launch_log_sums, logits(), labels, sizes.vocabulary, *numbers[:2]),
            logits_bytes + row_bytes,
        ),
        Case(
            "cross-entropy, backward",
            lambda: functools.partial(launch_gradients, logits(), labels, *numbers, sizes.vocabulary),
            2 * logits_bytes + row_bytes,
        ),
    ]


def _activations(sizes: Sizes) -> list[Case]:
    found = []
    for name, kind in KINDS.items():
        times = 2 if kind.gated else 1
        shape = (sizes.rows, 1, times * sizes.ffn)
        out = sizes.rows * sizes.ffn * BF16
        found += [
            Case(
                f"{name}, forward",
                lambda kind=kind, shape=shape: _forward(ActivationKernel, _random(*shape), kind),
                (times + 1) * out,
            ),
            Case(
                f"{name}, backward",
                lambda kind=kind, shape=shape: _backward(ActivationKernel, _random(*shape), kind),
                (2 * times + 1) * out,
            ),
        ]
    return found


def _forward(kernel: Any, *inputs: object) -> Callable[[], object]:  # noqa: ANN401
    return lambda: kernel.apply(*inputs)


def _backward(kernel: Any, *inputs: object) -> Callable[[], object]:  # noqa: ANN401
    outputs = kernel.apply(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    learnt = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    return lambda: torch.autograd.grad(outputs, learnt, [torch.ones_like(y) for y in outputs])


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16().requires_grad_()
