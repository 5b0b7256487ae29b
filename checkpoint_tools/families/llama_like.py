"""The tensors and settings that all Llama-shaped families share.

Theirs: `q_proj [N·D, H]`, `k_proj`, `v_proj [G·D, H]`, `o_proj [H, N·D]`, `gate_proj`, `up_proj [F, H]`,
`down_proj [H, F]`, `embed_tokens`, `lm_head [V, H]`, norms `[H]`, `q_norm`, `k_norm [D]`.
"""

from __future__ import annotations

from checkpoint_tools.families.family import Rule
from checkpoint_tools.layout import GATE_UP, HEADS, QKV, UNCHANGED, VOCABULARY, Fusion
from harness.parameters.names import EMBEDDING, LAYERS, OUTPUT

LAYER = f"{LAYERS}{{}}."
"""Prefix of the names of a layer in rules: of ours, and below of theirs."""
THEIR_LAYER = "model.layers.{}."


def norm_rule(ours: str, theirs: str, fusion: Fusion = UNCHANGED) -> Rule:
    """Return the rule for a norm of a layer, by its names there."""
    return Rule(ours=f"{LAYER}{ours}.weight", theirs=(f"{THEIR_LAYER}{theirs}.weight",), fusion=fusion)


def _weight_and_bias(ours: str, *theirs: str, fusion: Fusion = UNCHANGED) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            ours=f"{LAYER}{ours}.{kind}", theirs=tuple(f"{THEIR_LAYER}{name}.{kind}" for name in theirs), fusion=fusion
        )
        for kind in ("weight", "bias")
    )


RULES = (
    Rule(ours=EMBEDDING, theirs=("model.embed_tokens.weight",), fusion=VOCABULARY),
    norm_rule("input_layernorm", "input_layernorm"),
    *_weight_and_bias(
        "self_attention.linear_qkv", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", fusion=QKV
    ),
    norm_rule("self_attention.q_layernorm", "self_attn.q_norm", fusion=HEADS),
    norm_rule("self_attention.k_layernorm", "self_attn.k_norm", fusion=HEADS),
    *_weight_and_bias("self_attention.linear_proj", "self_attn.o_proj"),
    norm_rule("pre_mlp_layernorm", "post_attention_layernorm"),
    *_weight_and_bias("mlp.linear_fc1", "mlp.gate_proj", "mlp.up_proj", fusion=GATE_UP),
    *_weight_and_bias("mlp.linear_fc2", "mlp.down_proj"),
    Rule(ours="decoder.final_layernorm.weight", theirs=("model.norm.weight",)),
    Rule(ours=OUTPUT, theirs=("lm_head.weight",), fusion=VOCABULARY),
)
"""Every tensor of a Llama-shaped model."""

FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "head_dim": "kv_channels",
    "rms_norm_eps": "norm_epsilon",
    "initializer_range": "init_method_std",
}
"""Keys of `config.json` that are plain numbers of our model."""

DENSE_MLP = tuple(f"{LAYER}mlp.{name}.{kind}" for name in ("linear_fc1", "linear_fc2") for kind in ("weight", "bias"))
"""Rules that families without dense layers do not have."""

HAS = {"normalization": "RMSNorm", "activation": "swiglu"}
"""Fields of our model that all of them have."""
