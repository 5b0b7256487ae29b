"""Qwen2-MoE (also Qwen1.5-MoE) and Qwen3-MoE: experts, with shared ones behind a gate in the former."""

from __future__ import annotations

from checkpoint_tools.families.experts import (
    NORMALIZED,
    NOT_SHARED,
    SHARED_GATE,
    SOFTMAX,
    SPARSE_LAYERS,
    TRAINING_KEYS,
    count,
    expert_rules,
    shared_rules,
)
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES
from checkpoint_tools.families.windows import QWEN_MOE_WINDOWS, in_every_layer

_FIELDS = {**FIELDS, "moe_intermediate_size": "moe_ffn_hidden_size", "num_experts_per_tok": "moe_router_topk"}
_DERIVED = (NORMALIZED, SPARSE_LAYERS)

QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    rules=(*RULES[:-2], *expert_rules(), *shared_rules("shared_expert"), SHARED_GATE, *RULES[-2:]),
    fields={**_FIELDS, "shared_expert_intermediate_size": "moe_shared_expert_intermediate_size"},
    derived=(count(60), *_DERIVED, QWEN_MOE_WINDOWS),
    has={
        **HAS,
        **SOFTMAX,
        "moe_shared_expert_gate": True,
        "qk_layernorm": False,
        "add_qkv_bias": True,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",), "qkv_bias": (True,)},
    ignored=TRAINING_KEYS,
    defaults={
        "sliding_window": 4096,
        "num_key_value_heads": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    is_default=True,
)
QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    rules=(*RULES[:-2], *expert_rules(), *RULES[-2:]),
    fields=_FIELDS,
    derived=(count(128), *_DERIVED, in_every_layer(switch=True)),
    has={
        **HAS,
        **SOFTMAX,
        **NOT_SHARED,
        "qk_layernorm": True,
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    ignored=("max_window_layers", *TRAINING_KEYS),
    defaults={
        "sliding_window": 4096,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    is_default=True,
)
