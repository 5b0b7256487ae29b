"""Functions of the model that are compiled for a GPU, with the memory that the compiled kernel takes.

To be deleted when `harness.model` allocates for the meta device what its kernels allocate on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_CHUNK_BYTES = 512 * 2**20


def _empty(like: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)


class _Fused(torch.autograd.Function):
    """One kernel each way: the inputs that backward needs are kept, results and gradients are allocated."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        function: Callable[..., torch.Tensor],
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        with torch.no_grad(), torch.utils._python_dispatch._disable_current_modes():
            result = function(*inputs)
        # The rotation is linear: its backward needs the angles only.
        ctx.save_for_backward(*(inputs[1:] if function.__name__ == "rotate" else inputs))
        ctx.likes = [(each.shape, each.dtype) for each in inputs]
        return _empty(result)

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        wanted = zip(ctx.likes, ctx.needs_input_grad[1:], strict=True)
        return None, *(
            torch.empty(shape, dtype=dtype, device="meta") if is_wanted else None
            for (shape, dtype), is_wanted in wanted
        )


def _fused(_on_device: Callable[..., Any]) -> Callable[..., Any]:
    return lambda function, _device: functools.partial(_Fused.apply, function)


def _in_place(_on_device: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss's functions of chunks of logits: they fill tensors, or return one number a row."""

    def on_device(function: Callable[..., Any], _device: torch.device) -> Callable[..., Any]:
        def call(*inputs: torch.Tensor) -> Any:  # noqa: ANN401 (tensors, or nothing)
            with torch.utils._python_dispatch._disable_current_modes():
                results = function(*inputs)
            return results and tuple(map(_empty, results))

        return call

    return on_device


class _Norm(torch.autograd.Function):
    """A norm by one kernel: it keeps its input, and one or two fp32 numbers a row."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        num_statistics: int,
    ) -> torch.Tensor:
        rows = [torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device) for _ in range(num_statistics)]
        ctx.save_for_backward(x, weight, bias, *rows)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        x, weight, bias, *_ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight), None if bias is None else torch.empty_like(bias), None


def _rms_norm(_forward: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 (the norm)
        result: torch.Tensor = _Norm.apply(x, self.weight, None, 1)  # type: ignore[no-untyped-call]
        return result

    return forward


def _layer_norm(_forward: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 (the norm)
        result: torch.Tensor = _Norm.apply(x, self.weight, self.bias, 2)  # type: ignore[no-untyped-call]
        return result

    return forward


_WHY = "Compiled for GPUs: one kernel, without tensors in between."
ROWS: tuple[tuple[str, str, str, Callable[[Any], Any]], ...] = (
    ("harness.model.activation", "on_device", _WHY, _fused),
    ("harness.model.rotary", "on_device", _WHY, _fused),
    ("harness.model.cross_entropy", "on_device", _WHY, _in_place),
    (
        "harness.model.cross_entropy",
        "_CHUNK_BYTES",
        "Chunks of logits are as large as on a GPU.",
        lambda there: {**there, "meta": _CHUNK_BYTES},
    ),
    ("harness.model.norm:RMSNorm", "forward", "torch's fused kernel for GPUs.", _rms_norm),
    ("harness.model.norm:LayerNorm", "forward", "torch's fused kernel for GPUs.", _layer_norm),
)
"""Module, name, reason and substitute of each."""
