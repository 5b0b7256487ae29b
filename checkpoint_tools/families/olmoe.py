"""OLMoE: experts in every layer, and norms of queries and keys over all heads together."""

from __future__ import annotations

from checkpoint_tools.families.experts import (
    NORMALIZED,
    NOT_SHARED,
    SAME_WIDTH,
    SOFTMAX,
    TRAINING_KEYS,
    count,
    expert_rules,
)
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import DENSE_MLP, FIELDS, HAS, RULES

OLMOE = Family(
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    rules=(*(rule for rule in RULES[:-2] if rule.ours not in DENSE_MLP), *expert_rules(), *RULES[-2:]),
    fields={
        **{key: name for key, name in FIELDS.items() if key not in ("intermediate_size", "head_dim")},
        "num_experts_per_tok": "moe_router_topk",
    },
    derived=(count(64), NORMALIZED, SAME_WIDTH),
    has={
        **HAS,
        **SOFTMAX,
        **NOT_SHARED,
        "moe_layer_freq": 1,
        "qk_layernorm": True,
        "qk_layernorm_over": "width",
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",), "attention_bias": (False,), "clip_qkv": (None,)},
    ignored=TRAINING_KEYS,
    defaults={"num_experts_per_tok": 8, "rms_norm_eps": 1e-5},
    is_default=True,
)
