"""Gemma 2: Gemma with norms around attention and MLP, windows in every second layer, and caps."""

from __future__ import annotations

from checkpoint_tools.families.family import Family, Rule
from checkpoint_tools.families.gemma import GEMMA
from checkpoint_tools.families.llama_like import FIELDS, RULES, norm_rule
from checkpoint_tools.families.windows import ALTERNATING, CAPS, SCALE

_NORM_BEFORE_MLP = norm_rule("pre_mlp_layernorm", "").ours


def rules_with_four_norms() -> tuple[Rule, ...]:
    """Return Llama's rules with a norm in front of attention and MLP and one behind each, by their names at Gemma."""
    before_mlp, behind_mlp = (
        norm_rule("pre_mlp_layernorm", "pre_feedforward_layernorm"),
        norm_rule("post_mlp_layernorm", "post_feedforward_layernorm"),
    )
    found: list[Rule] = []
    for rule in RULES:
        if rule.ours == _NORM_BEFORE_MLP:
            found += [norm_rule("post_self_attn_layernorm", "post_attention_layernorm"), before_mlp]
        else:
            found += [rule, *([behind_mlp] if rule.ours.endswith("mlp.linear_fc2.bias") else [])]
    return tuple(found)


GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    rules=rules_with_four_norms(),
    fields=FIELDS | CAPS,
    derived=(ALTERNATING, SCALE),
    has=dict(GEMMA.has) | {"norm_placement": "around"},
    fixed=dict(GEMMA.fixed) | {"hidden_activation": ("gelu_pytorch_tanh",)},
    ignored=("cache_implementation",),
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    is_default=True,
)
