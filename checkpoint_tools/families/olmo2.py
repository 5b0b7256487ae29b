"""OLMo 2: Llama with norms behind attention and MLP, and norms of queries and keys over all heads together."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES, norm_rule

_NORMS_BEFORE = [norm_rule("input_layernorm", "").ours, norm_rule("pre_mlp_layernorm", "").ours]

OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    rules=(
        RULES[0],  # the embedding, in front of the layers
        norm_rule("post_self_attn_layernorm", "post_attention_layernorm"),
        norm_rule("post_mlp_layernorm", "post_feedforward_layernorm"),
        *(rule for rule in RULES[1:] if rule.ours not in _NORMS_BEFORE),
    ),
    fields=FIELDS,
    has={
        **HAS,
        "norm_placement": "behind",
        "qk_layernorm": True,
        "qk_layernorm_over": "width",
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",), "attention_bias": (False,)},
    defaults={"rms_norm_eps": 1e-5},
    is_default=True,
)
