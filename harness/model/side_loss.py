"""Losses that are trained on beside the one that the pipeline schedule differentiates."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def with_loss(tensor: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Return the tensor, and let the loss, a number, have the gradient 1 when the tensor's gradient comes back."""
    attached: torch.Tensor = _Attached.apply(tensor, loss)  # type: ignore[no-untyped-call]
    return attached


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.like = loss.new_ones(())
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
        return gradient, ctx.like
