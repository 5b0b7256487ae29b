"""gpt-oss in bf16: experts with biases in every layer, attention sinks, and windows in every second layer.

The experts of a layer are in one tensor each, with inputs in front of outputs, and gate and up projection alternate.
"""

from __future__ import annotations

from checkpoint_tools.families.experts import NOT_SHARED, SAME_WIDTH, SOFTMAX, TRAINING_KEYS, count
from checkpoint_tools.families.family import Family, Rule
from checkpoint_tools.families.llama_like import DENSE_MLP, FIELDS, LAYER, RULES, THEIR_LAYER
from checkpoint_tools.families.windows import ALTERNATING
from checkpoint_tools.layout import EXPERTS_ALTERNATING, EXPERTS_TURNED, UNCHANGED, Fusion


def _rule(ours: str, theirs: str, fusion: Fusion = UNCHANGED) -> Rule:
    return Rule(ours=LAYER + ours, theirs=(THEIR_LAYER + theirs,), fusion=fusion)


GPT_OSS = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    rules=(
        *(rule for rule in RULES[:-2] if rule.ours not in DENSE_MLP),
        _rule("self_attention.core_attention.softmax_offset", "self_attn.sinks"),
        _rule("mlp.router.weight", "mlp.router.weight"),
        _rule("mlp.router.bias", "mlp.router.bias"),
        _rule("mlp.experts.linear_fc1.weight", "mlp.experts.gate_up_proj", EXPERTS_ALTERNATING),
        _rule("mlp.experts.linear_fc1.bias", "mlp.experts.gate_up_proj_bias", EXPERTS_ALTERNATING),
        _rule("mlp.experts.linear_fc2.weight", "mlp.experts.down_proj", EXPERTS_TURNED),
        _rule("mlp.experts.linear_fc2.bias", "mlp.experts.down_proj_bias"),
        *RULES[-2:],
    ),
    fields={
        **{key: name for key, name in FIELDS.items() if key != "intermediate_size"},
        "num_experts_per_tok": "moe_router_topk",
    },
    derived=(count(128, "num_local_experts"), SAME_WIDTH, ALTERNATING),
    has={
        **SOFTMAX,
        **NOT_SHARED,
        "normalization": "RMSNorm",
        "activation": "clamped_swiglu",
        "softmax_type": "learnable",
        "moe_router_pre_softmax": False,
        "moe_layer_freq": 1,
        "qk_layernorm": False,
        "add_qkv_bias": False,
        "add_bias_linear": True,
    },
    fixed={"hidden_act": ("silu",), "attention_bias": (True,), "swiglu_alpha": (1.702,), "swiglu_limit": (7.0,)},
    # The number of experts under another name, and the length before YaRN, which the rotary settings say.
    ignored=(*TRAINING_KEYS, "experts_per_token", "initial_context_length"),
    defaults={
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "rope_theta": 150000.0,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
    },
    is_default=True,
)
