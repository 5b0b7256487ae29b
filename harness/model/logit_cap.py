"""A cap of the logits: cap · tanh(logit / cap), without a third tensor of their size.

Shapes: any.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable


def cap_output(output_layer: nn.Module, cap: float) -> None:
    """Let the output layer, which returns logits and a bias, return capped logits."""

    def capped(
        _layer: nn.Module, _inputs: object, output: tuple[torch.Tensor, torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits, bias = output
        return Capped.apply(logits, cap), bias  # type: ignore[no-untyped-call]

    output_layer.register_forward_hook(capped)


class Capped(torch.autograd.Function):
    """Writes tanh into the logits themselves: no product needs its own output again."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, cap: float) -> torch.Tensor:  # noqa: ANN401
        """Return the capped logits, and leave tanh(logit / cap) where they were."""
        tanh = logits.div_(cap).tanh_()
        ctx.save_for_backward(tanh)
        return tanh * cap

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Return the gradient times 1 - tanh², in the place of tanh."""
        (tanh,) = ctx.saved_tensors
        return tanh.square_().neg_().add_(1).mul_(gradient), None
