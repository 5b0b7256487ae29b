"""The transformer layer: Megatron's modules, with our own way through them.

Shapes: S sequence, B micro batch, H hidden size.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from harness.model.norm import LayerNorm, RMSNorm, hand_over
from harness.model.recompute import cheap_tensors_again
from harness.model.rotary import Rotation
from harness.parallel import cpu

cpu.prepare()

from megatron.core.transformer.attention import SelfAttention  # noqa: E402 (the CPU must be prepared first)
from megatron.core.transformer.transformer_layer import TransformerLayer  # noqa: E402


class Layer(TransformerLayer):  # type: ignore[misc]
    """Attention and MLP, each behind a norm and beside the residual stream.

    Megatron adds to the stream and normalizes it in two steps; here each addition and the norm behind it are one. The
    norm behind the last addition is the next layer's.
    """

    computes_cheap_tensors_again = False
    """Set for `parallel.recompute: selective`: autograd keeps recipes of cheap tensors."""
    norm_behind: tuple[nn.Module] | None = None
    """The norm that reads what this layer returns, if it is on this rank; in a tuple, because it is no part of this."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packed_seq_params: Any = None,  # noqa: ANN401 (Megatron's PackedSeqParams)
        **_megatron_arguments: Any,  # noqa: ANN401 (for inference, cross attention and Megatron's own rotation)
    ) -> tuple[torch.Tensor, None]:
        """Return the stream behind this layer, `[S, B, H]`, and no context of a cross attention."""
        with cheap_tensors_again() if self.computes_cheap_tensors_again else nullcontext():
            attended, bias = self.self_attention(
                self.input_layernorm(hidden_states),
                attention_mask=attention_mask,
                packed_seq_params=packed_seq_params,
            )
            stream, normed = _add_and_norm(self.pre_mlp_layernorm, _with(bias, attended), hidden_states)
            output, bias = self.mlp(normed)
            if self.norm_behind is None:
                return _with(bias, output) + stream, None
            (norm,) = self.norm_behind
            stream, normed = _add_and_norm(norm, _with(bias, output), stream)
            return hand_over(stream, norm, normed), None


class RotatingSelfAttention(SelfAttention):  # type: ignore[misc]
    """Megatron's self-attention with our rotation, in the same step as the cut of the QKV projection.

    Megatron's own rotation computes its tables anew in every layer, unless Transformer Engine does it.
    """

    def __init__(self, *arguments: Any, rotation: Rotation, by_sample: bool, **keywords: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **keywords)
        self.rotation = rotation
        self._by_sample = by_sample

    def get_query_key_value_tensors(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        **_megatron_arguments: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries, rotated keys, and values: `[S, B, heads, head size]`."""
        shares_groups = self.config.num_query_groups < self.config.tensor_model_parallel_size
        if self.config.qk_layernorm or shares_groups:
            query, key, value = super().get_query_key_value_tensors(hidden_states, key_value_states)
            return self.rotation(query), self.rotation(key), value
        mixed, _ = super().get_query_key_value_tensors(hidden_states, key_value_states, split_qkv=False)
        return self.rotation.split(mixed, self.hidden_size_per_attention_head, by_sample=self._by_sample)


def join_layers(layers: Any, final_norm: nn.Module | None) -> None:  # noqa: ANN401 (a ModuleList)
    """Let every layer normalize for the one behind it, and the last for the norm behind all, if it is on this rank."""
    norms = [*(layer.input_layernorm for layer in layers[1:]), final_norm]
    for layer, norm in zip(layers, norms, strict=True):
        layer.norm_behind = (norm,) if isinstance(norm, RMSNorm | LayerNorm) else None


def _add_and_norm(
    norm: Any,  # noqa: ANN401 (ours, or Transformer Engine's placeholder where its projection normalizes)
    x: torch.Tensor,
    residual: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(norm, RMSNorm | LayerNorm):
        total, normed = norm(x, residual)
        return total, normed
    total = x + residual
    return total, norm(total)


def _with(bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return x if bias is None else x + bias
