"""Stand-ins for kernels of GPUs that torch does not have on the meta device: they allocate what the kernel would.

Shapes: S sequence, B micro batch, N heads, G of them with keys and values of their own, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional


class FusedAttention(torch.autograd.Function):
    """Attention as cuDNN and FlashAttention compute it, also for shared keys and values (GQA).

    Forward keeps its inputs, its output and the logarithm of each row's sum in fp32. Backward adds the gradient of the
    queries up in fp32. Nothing is as large as S x S.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context takes any attribute)
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Return a tensor for the output, laid out as the queries are: `[B, N, S, D]` from keys `[B, G, S, D]`."""
        output = torch.empty_like(query)
        log_sum_BNS = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, log_sum_BNS)
        return output

    @staticmethod
    def backward(ctx: Any, _gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN401
        """Return tensors for the gradients."""
        query, key, value, *_ = ctx.saved_tensors
        sums = torch.empty(query.shape, dtype=torch.float32, device=query.device)
        gradients = tuple(torch.empty_like(each) for each in (query, key, value))
        del sums
        return gradients


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """Take the arguments of torch's attention; mask, scale and causality change no shape."""
    output: torch.Tensor = FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output


STAND_INS: Mapping[Callable[..., Any], Callable[..., Any]] = {functional.scaled_dot_product_attention: _attention}
"""By the function of torch that chooses a kernel."""
