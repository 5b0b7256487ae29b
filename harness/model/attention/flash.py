"""FlashAttention for samples of different length, with windows and sinks, on a GPU.

Shapes: T tokens of all sequences, N heads, G of them with keys and values of their own, D head size.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from harness.model.attention.bounds import Sequences
from harness.model.attention.rules import Rules


class Kernels(Protocol):
    """Attention without sinks, forward and backward, as FlashAttention has it."""

    def forward(
        self, query_TND: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output `[T, N, D]`, and the logarithm of each row's sum of exponentials `[N, T]`, fp32."""

    def backward(
        self,
        gradient_TND: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
        output_TND: torch.Tensor,
        log_sums_NT: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of queries, keys and values, from what forward was given and has returned."""


def attend_in_one_launch(
    query_TND: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    sequences: Sequences,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Return causal attention within sequences, without a cap: `[T, N, D]`. Keys and values may be shared."""
    if sinks_N is not None:
        kernels = FlashKernels(sequences, rules)
        return SinkAttention.apply(query_TND, key_TGD, value_TGD, sinks_N, kernels)  # type: ignore[no-untyped-call, no-any-return]
    from torch.nn.attention import varlen

    # torch 2.13 wants to be told of shared keys and values, torch 2.11 takes them as they come.
    asks = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
    told: dict[str, Any] = {"enable_gqa": True} if asks else {}
    queries, keys = sequences.queries, sequences.keys
    output = varlen.varlen_attn(
        *(query_TND, key_TGD, value_TGD, queries.starts, keys.starts, queries.longest, keys.longest),
        scale=rules.scale,
        window_size=(_tokens_before(rules), 0),
        **told,
    )
    assert isinstance(output, torch.Tensor), "nothing beside the output was asked for"
    return output


def _tokens_before(rules: Rules) -> int:
    """Return the tokens that a token sees beside itself, as FlashAttention counts them: -1 for all."""
    return -1 if rules.window is None else rules.window - 1


@dataclass(frozen=True)
class FlashKernels:
    """torch's FlashAttention, which its public functions do not let one call with sinks."""

    sequences: Sequences
    rules: Rules

    def forward(
        self, query_TND: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch the forward kernel."""
        output, log_sums, *_ = torch.ops.aten._flash_attention_forward(
            *(query_TND, key_TGD, value_TGD, *self._lengths(), 0.0, self._is_causal()),
            return_debug_mask=False,
            **self._options(),
        )
        return output, log_sums

    def backward(
        self,
        gradient_TND: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
        output_TND: torch.Tensor,
        log_sums_NT: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Launch the backward kernel."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=gradient_TND.device)
        query, key, value = torch.ops.aten._flash_attention_backward(
            *(gradient_TND, *inputs, output_TND, log_sums_NT, *self._lengths(), 0.0, self._is_causal()),
            *(no_dropout, no_dropout),
            **self._options(),
        )
        return query, key, value

    def _lengths(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        queries, keys = self.sequences.queries, self.sequences.keys
        return queries.starts, keys.starts, queries.longest, keys.longest

    def _is_causal(self) -> bool:
        return self.rules.window is None

    def _options(self) -> dict[str, Any]:
        window = {"window_size_left": _tokens_before(self.rules), "window_size_right": 0}
        return {"scale": self.rules.scale, **window}


class SinkAttention(torch.autograd.Function):
    """Attention with a sink in each head: one more score, without a value, in the sum of every row (gpt-oss).

    With l the logarithm of a row's sum and z the sink, l' = log(exp(l) + exp(z)) is that of the sum with the sink, and
    the output is exp(l - l') as large. The backward kernel makes the weights out of scores and l', and what the softmax
    takes off out of output and gradient: given l' and the output with sinks, it returns the gradients with sinks.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query_TND: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        sinks_N: torch.Tensor,
        kernels: Kernels,
    ) -> torch.Tensor:
        """Launch the kernel, and take the share of the sinks off its output."""
        output_TND, log_sums_NT = kernels.forward(query_TND, key_TGD, value_TGD)
        with_sinks_NT = torch.logaddexp(log_sums_NT, sinks_N.float()[:, None])
        shares_TN1 = torch.exp(log_sums_NT - with_sinks_NT).T[..., None]
        output_TND = (output_TND * shares_TN1).to(output_TND.dtype)
        ctx.save_for_backward(query_TND, key_TGD, value_TGD, sinks_N, output_TND, with_sinks_NT)
        ctx.kernels = kernels
        return output_TND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        """Launch the backward kernel, and add up the gradient of the sinks."""
        query_TND, key_TGD, value_TGD, sinks_N, output_TND, with_sinks_NT = ctx.saved_tensors
        gradient_TND = gradient_TND.contiguous()
        gradients = ctx.kernels.backward(gradient_TND, (query_TND, key_TGD, value_TGD), output_TND, with_sinks_NT)
        weights_NT = torch.exp(sinks_N.float()[:, None] - with_sinks_NT)
        taken_off_NT = (gradient_TND.float() * output_TND.float()).sum(dim=-1).T
        return *gradients, -(weights_NT * taken_off_NT).sum(dim=-1).to(sinks_N.dtype), None
