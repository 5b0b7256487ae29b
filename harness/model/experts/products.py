"""Products of tokens with the weights of their experts: one grouped product where torch has it, a loop elsewhere.

Shapes: T tokens in the order of their experts, E experts of this rank, I inputs, O outputs.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

_GROUPED_ALIGNMENT = 16
"""Bytes that each row must be a multiple of: torch asks for it on every device."""


def grouped_product(x_TI: torch.Tensor, weights_EOI: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """Multiply each token with its expert's weights: `[T, O]`.

    `tokens_per_expert` are E whole numbers in the host's memory, which add up to T.
    """
    if not takes_grouped(x_TI, weights_EOI):
        return looped_product(x_TI, weights_EOI, tokens_per_expert)
    ends_E = tokens_per_expert.cumsum(0).to(device=x_TI.device, dtype=torch.int32, non_blocking=True)
    return GroupedProduct.apply(x_TI, weights_EOI, ends_E)  # type: ignore[no-untyped-call, no-any-return]


def looped_product(x_TI: torch.Tensor, weights_EOI: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """Do the same with one product for each expert."""
    counts = tokens_per_expert.tolist()
    ends = list(accumulate(counts))
    products = (
        x_TI[end - count : end] @ weight_OI.T for end, count, weight_OI in zip(ends, counts, weights_EOI, strict=True)
    )
    return torch.cat(list(products))


def each_with_its_own(bias_EO: torch.Tensor, tokens_per_expert: torch.Tensor) -> torch.Tensor:
    """Return the bias of each token's expert: `[T, O]`."""
    rows: torch.Tensor = _Repeated.apply(bias_EO, tokens_per_expert.tolist())  # type: ignore[no-untyped-call]
    return rows


class _Repeated(torch.autograd.Function):
    """Rows, each as often as asked; backward adds up in a fixed order, as torch's own does not on a GPU."""

    @staticmethod
    def forward(ctx: Any, rows_EO: torch.Tensor, times: list[int]) -> torch.Tensor:  # noqa: ANN401
        """Repeat."""
        ctx.times, ctx.dtype = times, rows_EO.dtype
        parts = [row_O.expand(number, -1) for row_O, number in zip(rows_EO, times, strict=True)]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TO: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Add up in fp32."""
        parts = torch.split(gradient_TO, ctx.times)
        return torch.stack([part_tO.sum(dim=0, dtype=torch.float32) for part_tO in parts]).to(ctx.dtype), None


def takes_grouped(x_TI: torch.Tensor, weights_EOI: torch.Tensor) -> bool:
    """Return whether torch's grouped product takes these tensors: on GPUs bf16 only, and nowhere without tokens."""
    row_bytes = [size * x_TI.element_size() for size in weights_EOI.shape[1:]]
    return (
        hasattr(functional, "grouped_mm")
        and len(x_TI) > 0
        and (x_TI.dtype is torch.bfloat16 or x_TI.device.type == "cpu")
        and not any(size % _GROUPED_ALIGNMENT for size in row_bytes)
    )


class GroupedProduct(torch.autograd.Function):
    """torch's grouped product; its own backward refuses gradients that are not contiguous."""

    @staticmethod
    def forward(ctx: Any, x_TI: torch.Tensor, weights_EOI: torch.Tensor, ends_E: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Multiply."""
        ctx.save_for_backward(x_TI, weights_EOI, ends_E)
        product_TO: torch.Tensor = functional.grouped_mm(x_TI, weights_EOI.transpose(-2, -1), offs=ends_E)
        return product_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # noqa: ANN401
        """Return the gradients of tokens and weights."""
        x_TI, weights_EOI, ends_E = ctx.saved_tensors
        dy_TO = dy_TO.contiguous()
        dx_TI = functional.grouped_mm(dy_TO, weights_EOI, offs=ends_E)
        dw_EOI = functional.grouped_mm(dy_TO.T, x_TI, offs=ends_E)
        return dx_TI, dw_EOI, None
