"""The parts of layers: ours where Megatron's fallbacks are slow or refuse, or Transformer Engine's.

Both are put together by the same `Layer`, rotate by the same `Rotation` and have the same activation. Their checkpoints
have the same keys, so a run may go on with the other one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import torch

from harness.config.model import ModelConfig
from harness.config.parallel import CpCommType, ParallelConfig
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.model.activation import Activation
from harness.model.experts.mcore import add_up_shared_gradients, expert_mlp, let_graphs_go
from harness.model.latent.mcore import latent_attention
from harness.model.layer.mcore import Layer, LayerAttention, RotatingSelfAttention, join_layers
from harness.model.norm import LayerNorm, RMSNorm
from harness.model.rotary import Rotations
from harness.parallel import cpu
from harness.parallel.ranks import Ranks

cpu.prepare()

from megatron.core.models.gpt.gpt_layer_specs import (  # noqa: E402 (the CPU must be prepared first)
    HAVE_TE,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import TransformerConfig  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_block import (  # noqa: E402
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset  # noqa: E402

_OLDEST_WITH_FP8 = (8, 9)


def block_spec(
    config: Config,
    transformer: TransformerConfig,
    ranks: Ranks,
    rotations: Rotations,
    virtual_stage: int | None,
    device: torch.device,
) -> TransformerBlockSubmodules:
    """Return the layers of one model chunk, and the norm after the last one.

    Raises:
        ConfigError: Ranks that share samples are to be Transformer Engine's ring, or products are to be computed in
            fp8, but it is missing or cannot be imported, or the GPU knows no fp8; or norms of its projections are to be
            recomputed.
    """
    _refuse_what_would_be_bf16(config, device)
    layer, norm = _layer(config, ranks, rotations, device)
    first = get_transformer_layer_offset(transformer, vp_stage=virtual_stage)
    behind = first + get_num_layers_to_build(transformer, vp_stage=virtual_stage)
    with_experts = _with_experts(layer, norm, config.model)
    layers = [with_experts if has_experts else layer for has_experts in config.model.expert_layers[first:behind]]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm)


def last_layer(
    config: Config, ranks: Ranks, rotations: Rotations, device: torch.device
) -> tuple[ModuleSpec, type[Any]]:
    """Return a layer like the last one of the model, and its kind of norm."""
    layer, norm = _layer(config, ranks, rotations, device)
    return _with_experts(layer, norm, config.model) if config.model.expert_layers[-1] else layer, norm


def _layer(config: Config, ranks: Ranks, rotations: Rotations, device: torch.device) -> tuple[ModuleSpec, type[Any]]:
    """Return a dense layer, and its kind of norm."""
    if uses_transformer_engine(config, device):
        _refuse_fused_norms(config)
        layer, norm = _transformer_engine_layer(config)
    elif ranks.cp.size > 1 and config.parallel.cp_comm_type == "p2p":
        raise ConfigError(
            [
                "parallel.cp_comm_type: p2p is Transformer Engine's ring, which needs GPUs and bf16, and it cannot be "
                "used here; see `harness doctor`, or take allgather or a2a"
            ]
        )
    else:
        layer, norm = _own_layer(config.model)
    _place_norms(layer, norm, config.model)
    if config.model.multi_latent_attention:
        _attend_latently(layer, norm, config.model, rotations)
    else:
        attention = layer.submodules.self_attention
        attention.module = RotatingSelfAttention
        attention.params |= {
            "model": config.model,
            "rotations": rotations,
            "by_sample": config.data.reset_at_document_borders,
        }
    _parts_of_mlp(layer).activation_func = ModuleSpec(module=Activation, params={"kind": config.model.activation})
    return layer, norm


def _attend_latently(layer: ModuleSpec, norm: type[Any], model: ModelConfig, rotations: Rotations) -> None:
    """Give a layer latent attention. The norm in front feeds several projections, and is a layer of its own."""
    parts = layer.submodules
    parts.self_attention = latent_attention(model, rotations, norm)
    if model.norm_placement != "behind":
        parts.input_layernorm = norm
    names = parts.sharded_state_dict_keys_map.items()
    parts.sharded_state_dict_keys_map = {name: key for name, key in names if name != "input_layernorm."}


def _with_experts(layer: ModuleSpec, norm: type[Any], model: ModelConfig) -> ModuleSpec:
    """Return the layer with experts in place of its MLP; itself if the model has none.

    The norm in front of experts is a layer of its own, and has the name in checkpoints that it has in front of an MLP.
    """
    if model.num_moe_experts is None:
        return layer
    shared_experts = copy.copy(_parts_of_mlp(layer))
    if model.norm_placement != "behind":
        shared_experts.linear_fc1 = _without_norm(shared_experts.linear_fc1)
    parts = copy.copy(layer.submodules)
    parts.mlp = expert_mlp(model, shared_experts)
    if model.norm_placement != "behind":
        parts.pre_mlp_layernorm = norm
    names = {"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"}
    parts.sharded_state_dict_keys_map = {**parts.sharded_state_dict_keys_map, **names}
    return dataclasses.replace(layer, submodules=parts)


def _without_norm(projection: type[Any]) -> type[Any]:
    """Return Transformer Engine's projection that does not normalize what it reads; any other as it is."""
    if projection.__name__ != "TELayerNormColumnParallelLinear":
        return projection
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

    return TEColumnParallelLinear  # type: ignore[no-any-return]


def _parts_of_mlp(layer: ModuleSpec) -> Any:  # noqa: ANN401 (Megatron's MLPSubmodules)
    """Return the parts of a layer's MLP: Megatron 0.16 describes it by a specification, 0.19 by a call to be made."""
    mlp = layer.submodules.mlp
    return mlp.keywords["submodules"] if isinstance(mlp, functools.partial) else mlp.submodules


def _place_norms(layer: ModuleSpec, norm: type[Any], model: ModelConfig) -> None:
    """Set the norms of a layer that its kind does not bring."""
    layer.module = Layer
    if model.norm_placement != "before":
        layer.params["kind_of_norms_behind"] = norm
    if model.norm_placement == "behind":
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = IdentityOp


def settle_layer(layer: Any, parallel: ParallelConfig) -> None:  # noqa: ANN401 (ours)
    """Set how a built layer works by itself, and what of it is computed again."""
    let_graphs_go(layer.mlp)
    add_up_shared_gradients(layer.mlp)
    layer.recomputed = parallel.recomputed_modules


def settle_layers(block: Any, parallel: ParallelConfig) -> None:  # noqa: ANN401 (Megatron's TransformerBlock)
    """Set how the layers of a built block work together, and what of each is computed again.

    The last of the layers that are computed again as a whole does not normalize for the one behind it: what it left for
    it would be left by the first computation, which autograd does not see.
    """
    for layer in block.layers:
        settle_layer(layer, parallel)
    recomputed, unit = range(parallel.num_recomputed(len(block.layers))), parallel.layers_of_unit
    join_layers(block.layers, block.final_layernorm, apart=recomputed[unit - 1 :: unit])


def _refuse_fused_norms(config: Config) -> None:
    """Refuse to recompute norms that are part of Transformer Engine's projections, by name."""
    if "layernorm" in (config.parallel.recompute_modules or ()):
        raise ConfigError(
            [
                "parallel.recompute_modules: layernorm has no effect with Transformer Engine, whose projections "
                "normalize what they read; remove it"
            ]
        )


def _refuse_what_would_be_bf16(config: Config, device: torch.device) -> None:
    """Refuse fp8 where Megatron's context for it would do nothing."""
    if config.precision.fp8 is None:
        return
    way_out = "; see `harness doctor`, or leave precision.fp8 out"
    if not uses_transformer_engine(config, device):
        raise ConfigError(
            [
                f"precision.fp8: {config.precision.fp8} needs a GPU and Transformer Engine, and one of them is missing "
                f"here: Megatron would silently compute in bf16{way_out}"
            ]
        )
    if (found := torch.cuda.get_device_capability(device)) < _OLDEST_WITH_FP8:
        raise ConfigError(
            [
                f"precision.fp8: {config.precision.fp8} needs a GPU of compute capability 8.9 or newer, this one has "
                f"{found[0]}.{found[1]}{way_out}"
            ]
        )


def exchange_of(config: Config, device: torch.device) -> CpCommType:
    """Return how context-parallel ranks communicate: as they are told; else in a ring, where that is, or all gather."""
    if config.parallel.cp_comm_type is not None:
        return config.parallel.cp_comm_type
    has_ring = uses_transformer_engine(config, device) and not _needs_own_attention(config)
    return "p2p" if has_ring else "allgather"


def _needs_own_attention(config: Config) -> bool:
    """Return whether Transformer Engine's attention does not know what layers need."""
    return config.data.reset_at_document_borders or not config.model.has_plain_attention


def uses_transformer_engine(config: Config, device: torch.device) -> bool:
    """Return whether layers are made of Transformer Engine's modules: on a GPU, if it is installed, in bf16.

    Its fast attention does not support fp32.
    """
    return bool(HAVE_TE) and device.type == "cuda" and config.precision.dtype == "bf16"


def _own_layer(model: ModelConfig) -> tuple[ModuleSpec, type[Any]]:
    norm = RMSNorm if model.normalization == "RMSNorm" else LayerNorm
    layer = get_gpt_layer_local_spec(qk_layernorm=model.norms_each_head, normalization=model.normalization)
    layer.submodules.input_layernorm = norm
    layer.submodules.pre_mlp_layernorm = norm
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = functools.partial(LayerAttention, model=model)
    if model.norms_each_head:
        attention.q_layernorm = attention.k_layernorm = norm
    return layer, norm


def _transformer_engine_layer(config: Config) -> tuple[ModuleSpec, type[Any]]:
    """Return Transformer Engine's layer and norm.

    With resets at document borders, with windows, sinks or caps, and where ranks that share samples are not a ring, it
    has our attention.
    """
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TENorm

    layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.model.norms_each_head)
    is_shared = config.parallel.context_parallel_size > 1
    if _needs_own_attention(config) or (is_shared and config.parallel.cp_comm_type in ("allgather", "a2a")):
        own = functools.partial(LayerAttention, model=config.model)
        layer.submodules.self_attention.submodules.core_attention = own
    if config.model.norm_placement == "behind":  # its usual projections normalize what they read
        layer.submodules.self_attention.submodules.linear_qkv = TEColumnParallelLinear
        _parts_of_mlp(layer).linear_fc1 = TEColumnParallelLinear
    return layer, TENorm
