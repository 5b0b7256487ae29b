"""GLM-4.5 and its kin: dense layers in front, then experts behind a sigmoid router with a bias, and shared ones.

Half of each head is rotated. The layers that predict further tokens (`num_nextn_predict_layers`) are left out, as
transformers does it.
"""

from __future__ import annotations

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
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

GLM4_MOE = Family(
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    rules=(*RULES[:-2], *expert_rules(), ROUTER_BIAS, *shared_rules("shared_experts"), *RULES[-2:]),
    fields={
        **FIELDS,
        "moe_intermediate_size": "moe_ffn_hidden_size",
        "num_experts_per_tok": "moe_router_topk",
        "routed_scaling_factor": "moe_router_topk_scaling_factor",
        "use_qk_norm": "qk_layernorm",
        "attention_bias": "add_qkv_bias",
    },
    derived=(count(128, "n_routed_experts"), DENSE_FIRST, shared_experts(1), groups()),
    has={**HAS, **SIGMOID, "moe_shared_expert_gate": False, "qk_layernorm_over": "head", "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "norm_topk_prob": (True,)},
    ignored=TRAINING_KEYS,
    defaults={
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 1,
        "use_qk_norm": False,
        "attention_bias": False,
    },
    rotary_share=0.5,
    further_layers="num_nextn_predict_layers",
    is_default=True,
)
