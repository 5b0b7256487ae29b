"""Latent attention (MLA): one short latent of a token makes the keys and values of all heads, another its queries.

Ours, out of Megatron's parallel projections and with its names: Megatron's own loses gradients between tensor-parallel
ranks (decision 0005). The projections that make latents are small, so every tensor-parallel rank has them whole, and
computes the tokens that it holds between layers.

Shapes: S sequence, s the tokens of it that this rank holds between layers, B micro batch, H hidden size, L size of a
latent, N heads of this rank, D size of their queries and keys, of which R are rotated, V size of their values, W the
larger of D and V.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from harness.config.model import ModelConfig
from harness.model.layer.mcore import LayerAttention
from harness.model.rotary import Rotations
from harness.model.saved.mcore import SavedWhole
from harness.parallel import cpu

cpu.prepare()

from megatron.core.tensor_parallel import mappings  # noqa: E402 (the CPU must be prepared first)
from megatron.core.tensor_parallel.layers import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    linear_with_grad_accumulation_and_async_allreduce,
)
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402


def latent_attention(model: ModelConfig, rotations: Rotations, norm: type[Any]) -> ModuleSpec:
    """Return what a layer has in place of Megatron's self-attention; `norm` normalizes latents."""
    return ModuleSpec(module=LatentAttention, params={"model": model, "rotations": rotations, "norm": norm})


class LatentAttention(MegatronModule):  # type: ignore[misc]
    """Causal attention whose queries, keys and values are made of latents (DeepSeek-V2, section 2.1)."""

    def __init__(
        self,
        *,
        config: Any,  # noqa: ANN401 (Megatron's)
        model: ModelConfig,
        rotations: Rotations,
        layer_number: int,
        norm: Any,  # noqa: ANN401 (a class)
        pg_collection: Any,  # noqa: ANN401 (Megatron's)
        **_megatron_arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(config=config)
        rotation = rotations.of(model, layer_number - 1)
        assert rotation is not None, "latent attention has rotary positions"
        self.rotation = rotation
        self._model = model
        self._group = pg_collection.tp
        hidden, heads = model.hidden_size, model.num_attention_heads
        of_heads = partial(
            ColumnParallelLinear,
            config=config,
            init_method=config.init_method,
            bias=False,
            gather_output=False,
            tp_group=self._group,
        )
        normed = partial(norm, config=config, eps=config.layernorm_epsilon) if model.qk_layernorm else _nothing
        if model.q_lora_rank is None:
            self.linear_q_proj = of_heads(hidden, heads * model.head_size)
        else:
            self.linear_q_down_proj = WholeProjection(config, hidden, model.q_lora_rank)
            self.q_layernorm = normed(hidden_size=model.q_lora_rank)
            self.linear_q_up_proj = of_heads(model.q_lora_rank, heads * model.head_size)
        self.linear_kv_down_proj = WholeProjection(config, hidden, model.kv_lora_rank + model.qk_pos_emb_head_dim)
        self.kv_layernorm = normed(hidden_size=model.kv_lora_rank)
        self.linear_kv_up_proj = of_heads(model.kv_lora_rank, heads * (model.qk_head_dim + model.v_head_dim))
        self.core_attention = LayerAttention(model=model, config=config, layer_number=layer_number)
        self.linear_proj = RowParallelLinear(
            heads * model.v_head_dim,
            hidden,
            config=config,
            init_method=config.output_layer_init_method,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=True,
            tp_group=self._group,
        )

    def forward(
        self,
        hidden_sBH: torch.Tensor,
        packed_seq_params: Any = None,  # noqa: ANN401 (Megatron's PackedSeqParams)
        **_megatron_arguments: Any,  # noqa: ANN401 (for inference, cross attention and Megatron's own rotation)
    ) -> tuple[torch.Tensor, None]:
        """Return what attention adds to the stream, `[s, B, H]`, and no bias."""
        size, value_size = self._model.head_size, self._model.value_size
        query_SBND = self._queries(hidden_sBH)
        key_SBND, value_SBNV = self._keys_and_values(hidden_sBH)
        # Fast kernels know one size of heads only. Zeros change no score, and what they give of values is cut off.
        width = max(size, value_size)
        # A phase may have a scaling of its own.
        scale = self._model.softmax_scale or 1 / math.sqrt(size)
        self.core_attention.rules = replace(self.core_attention.rules, scale=self.rotation.score_factor * scale)
        attended_SBM = self.core_attention(
            *(_filled_up(x, width) for x in (query_SBND, key_SBND, value_SBNV)),
            None,
            packed_seq_params=packed_seq_params,
        )
        if width > value_size:
            attended_SBM = attended_SBM.unflatten(-1, (-1, width))[..., :value_size].flatten(2)
        output_sBH, _ = self.linear_proj(attended_SBM)
        return output_sBH, None

    def _queries(self, hidden_sBH: torch.Tensor) -> torch.Tensor:
        """Return queries, the last R numbers of each rotated: `[S, B, N, D]`."""
        model = self._model
        if model.q_lora_rank is None:
            mixed, _ = self.linear_q_proj(hidden_sBH)
        else:
            mixed, _ = self.linear_q_up_proj(self.q_layernorm(self.linear_q_down_proj(hidden_sBH)))
        still, turned = mixed.unflatten(-1, (-1, model.head_size)).split(
            [model.qk_head_dim, model.qk_pos_emb_head_dim], dim=-1
        )
        return torch.cat((still, self.rotation(_as_halves(turned))), dim=-1)

    def _keys_and_values(self, hidden_sBH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys `[S, B, N, D]`, whose rotated numbers are the same in all heads, and values `[S, B, N, V]`."""
        model = self._model
        latent_sBL, turned_sBR = self.linear_kv_down_proj(hidden_sBH).split(
            [model.kv_lora_rank, model.qk_pos_emb_head_dim], dim=-1
        )
        mixed, _ = self.linear_kv_up_proj(self.kv_layernorm(latent_sBL))
        still, value = mixed.unflatten(-1, (-1, model.qk_head_dim + model.v_head_dim)).split(
            [model.qk_head_dim, model.v_head_dim], dim=-1
        )
        turned_SB1R = self.rotation(_as_halves(self._shared(turned_sBR)[:, :, None]))
        turned = turned_SB1R.expand(-1, -1, still.size(2), -1)
        return torch.cat((still, turned), dim=-1), value

    def _shared(self, turned_sBR: torch.Tensor) -> torch.Tensor:
        """Return the rotated part of keys of all tokens, `[S, B, R]`; its gradient is added up over ranks."""
        if self.config.sequence_parallel:
            return mappings.gather_from_sequence_parallel_region(turned_sBR, group=self._group)  # type: ignore[no-any-return]
        return mappings.copy_to_tensor_model_parallel_region(turned_sBR, group=self._group)  # type: ignore[no-any-return]


class WholeProjection(SavedWhole):
    """A projection that every tensor-parallel rank has whole, over the tokens that it holds between layers."""

    def __init__(self, config: Any, inputs: int, outputs: int) -> None:  # noqa: ANN401 (Megatron's)
        super().__init__()
        shape = (outputs, inputs)
        self.weight = nn.Parameter(torch.empty(shape, dtype=config.params_dtype, device=torch.cuda.current_device()))
        # Megatron's mark: each rank has the gradient of its own tokens, and they are added up.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._adds_gradient_in_product = config.gradient_accumulation_fusion

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product, as Megatron's projections compute it."""
        product: torch.Tensor = linear_with_grad_accumulation_and_async_allreduce(
            x,
            self.weight,
            bias=None,
            gradient_accumulation_fusion=self._adds_gradient_in_product,
            allreduce_dgrad=False,
            sequence_parallel=False,
        )
        return product


def _nothing(**_arguments: object) -> nn.Module:
    return nn.Identity()


def _as_halves(x: torch.Tensor) -> torch.Tensor:
    """Order numbers that rotate with their neighbour, `[…, R]`, as halves that rotate against each other."""
    return x.view(*x.shape[:-1], -1, 2).transpose(-1, -2).flatten(-2)


def _filled_up(x: torch.Tensor, width: int) -> torch.Tensor:
    """Return heads with zeros behind their numbers, `[S, B, N, width]`."""
    return pad(x, (0, width - x.size(-1))) if x.size(-1) < width else x
