"""Tensors of which autograd keeps the recipe."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.model.activation import KINDS, Activation
from harness.model.recompute import cheap_tensors_again, computed_by

WIDTH = 6


def twice(x: torch.Tensor) -> torch.Tensor:
    kept = x.detach()
    return computed_by("layernorm", x * 2, lambda: kept * 2)


def test_gradients_are_the_same_and_the_cheap_tensor_is_not_kept() -> None:
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    x = torch.randn(4, WIDTH, requires_grad=True)
    functional.linear(twice(x), weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    expected = (x.grad.clone(), weight.grad.clone())
    x.grad = weight.grad = None
    with cheap_tensors_again():
        doubled = twice(x)
        output = functional.linear(doubled, weight)
    gone = weakref.ref(doubled.untyped_storage())
    del doubled
    gc.collect()
    assert gone() is None, "autograd still keeps the tensor"
    output.sum().backward()
    assert torch.equal(x.grad, expected[0])
    assert torch.equal(weight.grad, expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_is_computed_again(kind: str) -> None:
    first = nn.Linear(WIDTH, 16, bias=False)
    second = nn.Linear(8 if KINDS[kind].gated else 16, WIDTH, bias=False)
    computed = []

    class Counting(Activation):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            computed.append(y)
            return y

    activation = Counting(kind=kind)
    x = torch.randn(4, WIDTH)
    second(activation(first(x))).sum().backward()
    expected = [p.grad.clone() for p in (*first.parameters(), *second.parameters()) if p.grad is not None]
    first.zero_grad()
    second.zero_grad()
    with cheap_tensors_again():
        output = second(activation(first(x)))
    gone = weakref.ref(computed.pop().untyped_storage())
    computed.clear()
    gc.collect()
    assert gone() is None
    output.sum().backward()
    found = [p.grad for p in (*first.parameters(), *second.parameters())]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_outside_and_without_gradients_nothing_is_remembered() -> None:
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    doubled = twice(torch.randn(4, WIDTH))
    output = functional.linear(doubled, weight)
    kept = weakref.ref(doubled.untyped_storage())
    del doubled
    gc.collect()
    assert kept() is not None, "autograd keeps it as usual"
    with torch.no_grad(), cheap_tensors_again():
        assert not functional.linear(twice(torch.randn(4, WIDTH)), weight).requires_grad
    assert output.requires_grad


def test_of_modules_that_are_not_named_nothing_is_remembered() -> None:
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    with cheap_tensors_again({"mlp_act"}):
        doubled = twice(torch.randn(4, WIDTH))
        output = functional.linear(doubled, weight)
    kept = weakref.ref(doubled.untyped_storage())
    del doubled
    gc.collect()
    assert kept() is not None, "it is no activation"
    assert output.requires_grad


def test_a_view_of_other_size_is_kept_as_it_is() -> None:
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    x = torch.randn(4, WIDTH)
    with cheap_tensors_again():
        output = functional.linear(twice(x)[:2], weight)
    output.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, (2 * x[:2]).sum(0).expand(WIDTH, WIDTH))
