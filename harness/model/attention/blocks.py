"""Attention of the last tokens of a sequence on a CPU, whose fused kernel knows causality only from the first token on.

Shapes: B micro batch, N heads, G of them with keys and values of their own, q queries, S keys, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def attend_in_two_blocks(
    query_BNqD: torch.Tensor, key_BGSD: torch.Tensor, value_BGSD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Return causal attention of fewer queries than keys, the last of which stand together: `[B, N, q, D]`."""
    shares = query_BNqD.size(1) // key_BGSD.size(1)
    key_BNSD, value_BNSD = (x.repeat_interleave(shares, dim=1) if shares > 1 else x for x in (key_BGSD, value_BGSD))
    output: torch.Tensor = _TwoBlocks.apply(query_BNqD, key_BNSD, value_BNSD, scale)  # type: ignore[no-untyped-call]
    return output


class _TwoBlocks(torch.autograd.Function):
    """Attention to all keys before the queries, and causal attention among the rest; both make one softmax.

    With l₁, l₂ the logarithms of a row's sums in both blocks, l = log(exp(l₁) + exp(l₂)) is that of the whole row, and
    the output is exp(l₁ - l) and exp(l₂ - l) times those of the blocks. The backward kernel makes weights out of scores
    and l, and what the softmax takes off out of output and gradient: given those of the whole row, it returns the
    gradients of a block.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query_BNqD: torch.Tensor,
        key_BNSD: torch.Tensor,
        value_BNSD: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor:
        """Compute both blocks, and put them together in fp32."""
        outputs, log_sums = [], []
        for own, is_causal in _blocks(query_BNqD, key_BNSD):
            block = (query_BNqD, key_BNSD[:, :, own], value_BNSD[:, :, own])
            output, log_sums_BNq = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *block, 0.0, is_causal, scale=scale
            )
            outputs.append(output.float())
            log_sums.append(log_sums_BNq)
        whole_BNq = torch.logaddexp(*log_sums)
        parts = zip(outputs, log_sums, strict=True)
        output_BNqD = sum((torch.exp(part - whole_BNq)[..., None] * output for output, part in parts), torch.zeros(()))
        output_BNqD = output_BNqD.to(query_BNqD.dtype)
        ctx.save_for_backward(query_BNqD, key_BNSD, value_BNSD, output_BNqD, whole_BNq)
        ctx.scale = scale
        return output_BNqD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BNqD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of both blocks: of queries their sum, of keys and values one behind the other."""
        query_BNqD, key_BNSD, value_BNSD, output_BNqD, whole_BNq = ctx.saved_tensors
        gradients = []
        for own, is_causal in _blocks(query_BNqD, key_BNSD):
            block = (query_BNqD, key_BNSD[:, :, own], value_BNSD[:, :, own])
            gradients.append(
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                    gradient_BNqD, *block, output_BNqD, whole_BNq, 0.0, is_causal, scale=ctx.scale
                )
            )
        queries, keys, values = zip(*gradients, strict=True)
        return queries[0] + queries[1], torch.cat(keys, dim=2), torch.cat(values, dim=2), None


def _blocks(query_BNqD: torch.Tensor, key_BNSD: torch.Tensor) -> tuple[tuple[slice, bool], tuple[slice, bool]]:
    """Return the keys of each block, and whether it is causal."""
    border = key_BNSD.size(2) - query_BNqD.size(2)
    return (slice(0, border), False), (slice(border, None), True)
