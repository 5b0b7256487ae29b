"""The transformer layer: Megatron's modules, with our own way through them.

Shapes: S sequence, B micro batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from harness.config.model import ModelConfig
from harness.config.parallel import CHEAP_MODULES
from harness.model.attention.bounds import Documents
from harness.model.attention.core import Attend, CoreAttention, attend_in_samples
from harness.model.attention.rules import rules_of
from harness.model.attention.sharing import WithAllTokens, WithSomeHeads
from harness.model.norm import LayerNorm, RMSNorm, Scaled, SharedRMSNorm, hand_over, rms_norm
from harness.model.recompute import cheap_tensors_again
from harness.model.rotary import Rotations
from harness.model.saved.mcore import SavedCut
from harness.parallel import cpu

cpu.prepare()

from megatron.core import parallel_state  # noqa: E402 (the CPU must be prepared first)
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.tensor_parallel import checkpoint  # noqa: E402
from megatron.core.transformer.attention import SelfAttention  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.transformer_layer import TransformerLayer  # noqa: E402


class Layer(TransformerLayer):  # type: ignore[misc]
    """Attention and MLP, each behind a norm, in front of one, or both, and beside the residual stream.

    Megatron adds to the stream and normalizes it in two steps; here each addition and the norm behind it are one. The
    norm behind the last addition is the next layer's.
    """

    recomputed: frozenset[str] = frozenset()
    """Modules that backward computes again, by their names in `parallel.recompute_modules`."""
    norm_behind: tuple[nn.Module] | None = None
    """The norm that reads what this layer returns, if it is on this rank; in a tuple, because it is no part of this."""

    def __init__(self, *arguments: Any, kind_of_norms_behind: type[Any] | None = None, **keywords: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **keywords)
        kind: type[Any] = kind_of_norms_behind or IdentityOp
        sizes = {"hidden_size": self.config.hidden_size, "eps": self.config.layernorm_epsilon}
        self.post_self_attn_layernorm = kind(config=self.config, **sizes)
        self.post_mlp_layernorm = kind(config=self.config, **sizes)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packed_seq_params: Any = None,  # noqa: ANN401 (Megatron's PackedSeqParams)
        **_megatron_arguments: Any,  # noqa: ANN401 (for inference, cross attention and Megatron's own rotation)
    ) -> tuple[torch.Tensor, None]:
        """Return the stream behind this layer, `[S, B, H]`, and no context of a cross attention."""
        cheap = self.recomputed & CHEAP_MODULES
        with cheap_tensors_again(cheap) if cheap else nullcontext():
            attended, bias = self.self_attention(
                self.input_layernorm(hidden_states),
                attention_mask=attention_mask,
                packed_seq_params=packed_seq_params,
            )
            attended = self.post_self_attn_layernorm(_with(bias, attended))
            stream, normed = _add_and_norm(self.pre_mlp_layernorm, attended, hidden_states)
            output = self.post_mlp_layernorm(self._mlp_again(normed))
            if self.norm_behind is None:
                return output + stream, None
            (norm,) = self.norm_behind
            stream, normed = _add_and_norm(norm, output, stream)
            return hand_over(stream, norm, normed), None

    def _mlp_again(self, normed: torch.Tensor) -> torch.Tensor:
        """Compute MLP or experts, again in backward if they are recomputed.

        Not in Megatron's way: that of an MLP is in the forward pass of its layer, which this one replaces, and that of
        experts would leave the dispatcher what the second computation made (see `let_graphs_go`).
        """
        if torch.is_grad_enabled() and ("moe" if self.is_moe_layer else "mlp") in self.recomputed:
            again: torch.Tensor = checkpoint(self._mlp_with_bias, False, normed)
            return again
        return self._mlp_with_bias(normed)

    def _mlp_with_bias(self, normed: torch.Tensor) -> torch.Tensor:
        output, bias = self.mlp(normed)
        return _with(bias, output)


class PackedDocuments(PackedSeqParams):  # type: ignore[misc]
    """Documents, in what Megatron hands to every layer."""

    def __init__(self, documents: Documents) -> None:
        """Tell Megatron nothing else: in its own form for packed sequences it would take all tokens as one sample."""
        super().__init__(qkv_format="sbhd")
        self.documents = documents


class RotatingSelfAttention(SelfAttention):  # type: ignore[misc]
    """Megatron's self-attention with our rotation, in the same step as the cut of the QKV projection.

    Megatron's own rotation computes its tables anew in every layer, unless Transformer Engine does it. With learned
    positions nothing is rotated.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401
        model: ModelConfig,
        rotations: Rotations,
        by_sample: bool,
        **keywords: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.rotation = rotations.of(model, self.layer_number - 1)
        self._by_sample = by_sample
        norms_heads_together = model.qk_layernorm and not model.norms_each_head
        if norms_heads_together:  # Megatron knows norms of each head only
            of_heads = partial(
                WholeHeadsNorm, self.config, self.hidden_size_per_attention_head, self.config.layernorm_epsilon
            )
            self.q_layernorm = of_heads(num_heads=self.config.num_attention_heads)
            self.k_layernorm = of_heads(num_heads=self.config.num_query_groups)
        self._norms_heads = norms_heads_together or self.config.qk_layernorm

    def get_query_key_value_tensors(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        **_megatron_arguments: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries, rotated keys, and values: `[S, B, heads, head size]`."""
        shares_groups = self.config.num_query_groups < self.config.tensor_model_parallel_size
        if self._norms_heads or shares_groups or self.rotation is None:
            query, key, value = super().get_query_key_value_tensors(hidden_states, key_value_states)
            if self.rotation is None:
                return query, key, value
            return self.rotation(query), self.rotation(key), value
        mixed, _ = super().get_query_key_value_tensors(hidden_states, key_value_states, split_qkv=False)
        return self.rotation.split(mixed, self.hidden_size_per_attention_head, by_sample=self._by_sample)


class LayerAttention(CoreAttention, SavedCut):
    """Attention by the rules of its layer, with the sinks of this rank's heads."""

    def __init__(
        self,
        *,
        model: ModelConfig,
        config: Any,  # noqa: ANN401 (Megatron's)
        layer_number: int,
        softmax_scale: float | None = None,
        **_megatron_arguments: object,
    ) -> None:
        heads = config.num_attention_heads // parallel_state.get_tensor_model_parallel_world_size()
        device = torch.cuda.current_device()
        sinks: torch.Tensor | None = None
        if model.softmax_type == "learnable":
            sinks = nn.Parameter(torch.empty(heads, dtype=config.params_dtype, device=device))
        elif model.softmax_type == "off-by-one":
            sinks = torch.zeros(heads, dtype=config.params_dtype, device=device)
        rules = rules_of(model, layer_number - 1, softmax_scale)
        super().__init__(rules=rules, sinks_N=sinks, attend=_attend(config.cp_comm_type))


def _attend(cp_comm_type: str | None) -> Attend:
    """Return attention for the context-parallel group, given how its ranks are to communicate in Megatron's words."""
    group = parallel_state.get_context_parallel_group()
    if group.size() == 1:
        return attend_in_samples
    return WithSomeHeads(group) if cp_comm_type == "a2a" else WithAllTokens(group)


class WholeHeadsNorm(Scaled, SavedCut):
    """Root-mean-square norm of all heads of queries or keys together, which tensor-parallel ranks share.

    Shapes: N heads of this rank, D head size, W their width N·D.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float, *, num_heads: int) -> None:  # noqa: ANN401
        super().__init__()
        self._group = parallel_state.get_tensor_model_parallel_group()
        self._epsilon = eps
        self._is_zero_centered = config.layernorm_zero_centered_gamma
        width = num_heads * hidden_size // self._group.size()
        self.weight = nn.Parameter(torch.ones(width, dtype=config.params_dtype, device=torch.cuda.current_device()))

    def forward(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """Return the normalized heads, of the same shape and dtype."""
        x_SBW = x_SBND.flatten(2)
        if self._group.size() == 1:
            return rms_norm(x_SBW, self.scale(), self._epsilon).view_as(x_SBND)
        normed_SBW: torch.Tensor = SharedRMSNorm.apply(x_SBW, self.scale(), self._epsilon, self._group)  # type: ignore[no-untyped-call]
        return normed_SBW.view_as(x_SBND)


def join_layers(layers: Any, final_norm: nn.Module | None, apart: Collection[int]) -> None:  # noqa: ANN401 (a ModuleList)
    """Let every layer normalize for the one behind it, and the last for the norm behind all, if it is on this rank.

    Not those whose number is in `apart`.
    """
    norms = [*(layer.input_layernorm for layer in layers[1:]), *([final_norm] if len(layers) else [])]
    for number, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        is_joined = number not in apart and isinstance(norm, RMSNorm | LayerNorm)
        layer.norm_behind = (norm,) if is_joined else None


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
