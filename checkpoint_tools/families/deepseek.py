"""DeepSeek-V2 and V3: latent attention, dense layers in front, then experts in groups, and shared ones.

Theirs (H hidden, N heads, D size of their queries and keys, of which R are rotated, V size of values, L of a latent):
`q_proj [N·D, H]`, or `q_a_proj [L, H]`, `q_a_layernorm [L]`, `q_b_proj [N·D, L]`; `kv_a_proj_with_mqa [L + R, H]`,
`kv_a_layernorm [L]`, `kv_b_proj [N·(D - R + V), L]`; `o_proj [H, N·V]`. Ours are the same, number by number.

The layers of V3 that predict further tokens (`num_nextn_predict_layers`) are left out, as transformers does it; a
written model says that it has none. Norms of latents have an epsilon of 1e-6 in transformers, whatever `rms_norm_eps`
says, so no other one is known here.
"""

from __future__ import annotations

from typing import Any

from checkpoint_tools.families.experts import (
    DENSE_FIRST,
    ROUTER_BIAS,
    SIGMOID,
    TRAINING_KEYS,
    count,
    expert_rules,
    groups,
    shared_experts,
    shared_rules,
)
from checkpoint_tools.families.family import Derived, Family, Fields, Rule
from checkpoint_tools.families.json_values import shown
from checkpoint_tools.families.llama_like import FIELDS, HAS, LAYER, RULES, THEIR_LAYER
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

_ATTENTION = {
    "linear_q_proj": "q_proj",
    "linear_q_down_proj": "q_a_proj",
    "q_layernorm": "q_a_layernorm",
    "linear_q_up_proj": "q_b_proj",
    "linear_kv_down_proj": "kv_a_proj_with_mqa",
    "kv_layernorm": "kv_a_layernorm",
    "linear_kv_up_proj": "kv_b_proj",
    "linear_proj": "o_proj",
}
_RULES = (
    *RULES[:2],  # the embedding, and the norm in front of attention
    *(
        Rule(ours=f"{LAYER}self_attention.{ours}.weight", theirs=(f"{THEIR_LAYER}self_attn.{theirs}.weight",))
        for ours, theirs in _ATTENTION.items()
    ),
    *(rule for rule in RULES[2:-2] if ".mlp." in rule.ours or ".pre_mlp_" in rule.ours),
    *expert_rules(),
    *shared_rules("shared_experts"),
)
_FIELDS = {
    **{key: name for key, name in FIELDS.items() if key not in ("head_dim", "rms_norm_eps")},
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_head_dim",
    "qk_rope_head_dim": "qk_pos_emb_head_dim",
    "v_head_dim": "v_head_dim",
    "moe_intermediate_size": "moe_ffn_hidden_size",
    "num_experts_per_tok": "moe_router_topk",
    "routed_scaling_factor": "moe_router_topk_scaling_factor",
}
_HAS = {
    **HAS,
    "multi_latent_attention": True,
    "qk_layernorm": True,
    "norm_epsilon": 1e-6,
    "moe_shared_expert_gate": False,
}
_FIXED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "rms_norm_eps": (1e-6,),
    "attention_bias": (False,),
    "moe_layer_freq": (1,),
}
_IGNORED = (*TRAINING_KEYS, "aux_loss_alpha", "seq_aux", "ep_size")
_DEFAULTS = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def _read_head_sizes(said: Fields) -> dict[str, Any]:
    still, rotated = said["qk_nope_head_dim"], said["qk_rope_head_dim"]
    for key, size in (("head_dim", rotated), ("qk_head_dim", still + rotated)):
        if said.get(key, size) != size:
            raise CheckpointError(
                f"{key}: {said[key]} beside qk_nope_head_dim {still} and qk_rope_head_dim {rotated}, which make it "
                f"{size}"
            )
    return {}


_HEAD_SIZES = Derived(keys=("head_dim", "qk_head_dim"), fields=(), read=_read_head_sizes, write=lambda model: {})
"""Sizes that transformers computes, and writes beside those that they follow from."""


def _lost_temperature(model: ModelConfig) -> list[str]:
    scaling = model.rope_scaling
    if scaling is None or scaling.type != "yarn" or not scaling.mscale_all_dim:
        return []
    if scaling.mscale and scaling.attention_factor is None:
        return []
    return ["its rope_scaling has mscale_all_dim without mscale, which transformers does not read"]


_NO_FURTHER_LAYERS = Derived(
    keys=("num_nextn_predict_layers",),
    fields=(),
    read=lambda said: {},
    write=lambda model: {"num_nextn_predict_layers": 0},
)
_TEMPERATURE = Derived(keys=(), fields=(), read=lambda said: {}, write=lambda model: {}, objections=_lost_temperature)


def _read_best_groups(said: Fields) -> dict[str, Any]:
    method, number, chosen = said.get("topk_method", "greedy"), said.get("n_group", 1), said.get("topk_group", 1)
    if method not in ("greedy", "group_limited_greedy"):
        raise CheckpointError(f"topk_method: {shown(method)}, known are greedy and group_limited_greedy")
    if method == "greedy" or number == 1:
        return dict.fromkeys(_BEST_GROUPS.fields)
    return dict(zip(_BEST_GROUPS.fields, (number, chosen, 1), strict=True))


def _write_best_groups(model: ModelConfig) -> Fields:
    has_groups = model.moe_router_num_groups is not None
    return {
        "topk_method": "group_limited_greedy" if has_groups else "greedy",
        "n_group": model.moe_router_num_groups or 1,
        "topk_group": model.moe_router_group_topk or 1,
    }


def _object_to_sums(model: ModelConfig) -> list[str]:
    chosen = model.moe_router_group_topk
    if chosen is None or (model.moe_router_group_scores or model.moe_router_topk // chosen) == 1:
        return []
    return ["its groups are chosen by sums of scores, not by the best one"]


_BEST_GROUPS = Derived(
    keys=("topk_method", "n_group", "topk_group"),
    fields=("moe_router_num_groups", "moe_router_group_topk", "moe_router_group_scores"),
    read=_read_best_groups,
    write=_write_best_groups,
    objections=_object_to_sums,
)
"""V2's groups of experts: those with the best single score are chosen."""

DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    rules=(*_RULES, *RULES[-2:]),
    fields=_FIELDS,
    nullable=("q_lora_rank",),
    derived=(count(64, "n_routed_experts"), DENSE_FIRST, shared_experts(2), _BEST_GROUPS, _HEAD_SIZES, _TEMPERATURE),
    has={
        **_HAS,
        "moe_router_score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "moe_router_pre_softmax": True,
    },
    fixed={**_FIXED, "mlp_bias": (False,), "norm_topk_prob": (False,), "scoring_func": ("softmax",)},
    ignored=_IGNORED,
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": None,
        "moe_intermediate_size": 1407,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 0,
    },
    is_default=True,
)
DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    rules=(*_RULES, ROUTER_BIAS, *RULES[-2:]),
    fields=_FIELDS,
    nullable=("q_lora_rank",),
    derived=(
        *(count(256, "n_routed_experts"), DENSE_FIRST, shared_experts(1), groups()),
        *(_HEAD_SIZES, _TEMPERATURE, _NO_FURTHER_LAYERS),
    ),
    has={**_HAS, **SIGMOID},
    fixed={
        **_FIXED,
        "norm_topk_prob": (True,),
        "scoring_func": ("sigmoid",),
        "topk_method": ("noaux_tc",),
        "rope_interleave": (True,),
    },
    ignored=_IGNORED,
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": 128,
        "moe_intermediate_size": 2048,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 3,
        "n_group": 8,
        "topk_group": 4,
    },
    further_layers="num_nextn_predict_layers",
    is_default=True,
)
