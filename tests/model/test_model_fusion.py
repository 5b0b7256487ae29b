"""Functions that become one kernel on a GPU: each is one graph, made once for all chunks and both passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from harness.model import activation, cross_entropy, rotary
from harness.model.fusion import on_device

R, V, PADDED = 8, 40, 48


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_inputs() -> Iterator[tuple[torch.Tensor, ...]]:
    logits = torch.randn(2 * R, PADDED)
    for rows in (slice(0, R), slice(R, 2 * R)):
        yield logits[rows, :V], torch.randn(R), torch.randn(R), torch.randn(R), torch.randint(V, (R,))


def label_inputs() -> Iterator[tuple[torch.Tensor, ...]]:
    for logits, *_, columns in loss_inputs():
        yield logits, columns


def layer_inputs() -> Iterator[tuple[torch.Tensor, ...]]:
    for _ in range(2):
        yield (torch.randn(6, 2, 16, requires_grad=True),)


def head_inputs() -> Iterator[tuple[torch.Tensor, ...]]:
    for _ in range(2):
        yield torch.randn(6, 2, 4, 8, requires_grad=True), torch.randn(6, 1, 1, 4), torch.randn(6, 1, 1, 4)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (cross_entropy.forward_rows, label_inputs),
        (cross_entropy.backward_rows_in_one_pass, loss_inputs),
        (activation.swiglu, layer_inputs),
        (activation.geglu, layer_inputs),
        (activation.gelu, layer_inputs),
        (rotary.rotate, head_inputs),
    ],
)
def test_one_graph_serves_all_calls(function: Callable[..., Any], inputs: Callable[[], Iterator[Any]]) -> None:
    counter = CompileCounter()
    compiled = torch.compile(function, dynamic=False, fullgraph=True, backend=counter)
    for arguments in inputs():
        compiled(*arguments)
    assert counter.frame_count == 1


def test_the_cpu_runs_the_function_itself() -> None:
    assert on_device(activation.swiglu, torch.device("cpu")) is activation.swiglu


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, about itself
def test_a_gpu_gets_one_compiled_function_for_all_callers() -> None:
    compiled = on_device(activation.swiglu, torch.device("cuda"))
    assert compiled is not activation.swiglu
    assert compiled is on_device(activation.swiglu, torch.device("cuda", 1))
