"""Our AdamW against torch's, step by step, and its divisor against dividing."""

from __future__ import annotations

import copy

import pytest
import torch

from harness.optim.adamw import AdamW

SHAPES = [(7, 5), (33,), (1,), (4, 3, 2)]
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(params: list[torch.nn.Parameter], step: int, scale: float = 1.0) -> None:
    for param, gradient in zip(params, parameters(100 + step), strict=True):
        param.grad = gradient.detach() * scale


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_equal_those_of_torch(weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    options = OPTIONS | {"weight_decay": weight_decay}
    optimizer, reference = AdamW(ours, **options), torch.optim.AdamW(theirs, **options, foreach=False, fused=False)
    for step in range(20):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"] = 1e-2 / (step + 1)
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        reference.step()
        for own, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, their, rtol=2e-6, atol=2e-7)
            for moment in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(
                    optimizer.state[own][moment], reference.state[their][moment], rtol=2e-6, atol=1e-9
                )


def test_step_count_is_kept_in_the_group_and_moments_are_the_only_state() -> None:
    params = parameters()
    optimizer = AdamW(params, **OPTIONS)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    assert [group["step"] for group in optimizer.param_groups] == [3]
    assert {frozenset(state) for state in optimizer.state.values()} == {frozenset({"exp_avg", "exp_avg_sq"})}


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    params = parameters()
    optimizer = AdamW(params, **OPTIONS)
    give_gradients(params, 0)
    optimizer.step()
    restored_params = [torch.nn.Parameter(param.detach().clone()) for param in params]
    restored = AdamW(restored_params, lr=1.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (1, 2):
        give_gradients(params, step)
        give_gradients(restored_params, step)
        optimizer.step()
        restored.step()
    assert all(torch.equal(a, b) for a, b in zip(params, restored_params, strict=True))


@pytest.mark.parametrize("divisor", [1.0, 2.0, 3.7])
def test_gradient_divisor_equals_dividing_the_gradients(divisor: float) -> None:
    inside, outside = parameters(), parameters()
    dividing, plain = AdamW(inside, **OPTIONS), AdamW(outside, **OPTIONS)
    dividing.gradient_divisor = torch.tensor(divisor)
    for step in range(5):
        give_gradients(inside, step)
        give_gradients(outside, step)
        for param in outside:
            param.grad /= divisor
        dividing.step()
        plain.step()
    for one, other in zip(inside, outside, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_parameters_without_a_gradient_keep_weights_and_moments() -> None:
    params = parameters()
    optimizer = AdamW(params, **OPTIONS)
    before = params[0].detach().clone()
    give_gradients(params, 0)
    params[0].grad = None
    optimizer.step()
    assert torch.equal(params[0], before)
    assert params[0] not in optimizer.state


def test_a_closure_is_refused() -> None:
    with pytest.raises(AssertionError, match="AdamW is stepped with gradients that are ready"):
        AdamW(parameters(), **OPTIONS).step(lambda: 0.0)
