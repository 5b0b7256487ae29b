"""Mixtral: Mistral with experts in every layer."""

from __future__ import annotations

from checkpoint_tools.families.experts import NOT_SHARED, SAME_WIDTH, SOFTMAX, TRAINING_KEYS, count, expert_rules
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import DENSE_MLP, FIELDS, HAS, RULES
from checkpoint_tools.families.windows import in_every_layer

MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    rules=(
        *(rule for rule in RULES[:-2] if rule.ours not in DENSE_MLP),
        *expert_rules("block_sparse_moe", gate="w1", up="w3", down="w2"),
        *RULES[-2:],
    ),
    fields={
        **{key: name for key, name in FIELDS.items() if key != "intermediate_size"},
        "num_experts_per_tok": "moe_router_topk",
    },
    derived=(count(8, "num_local_experts"), SAME_WIDTH, in_every_layer()),
    has={
        **HAS,
        **SOFTMAX,
        **NOT_SHARED,
        "moe_router_pre_softmax": False,
        "moe_layer_freq": 1,
        "qk_layernorm": False,
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",)},
    ignored=TRAINING_KEYS,
    defaults={
        "num_key_value_heads": 8,
        "num_experts_per_tok": 2,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
    },
    is_default=True,
)
