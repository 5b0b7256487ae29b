"""A kernel of a GPU beside the same mathematics in fp64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

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
