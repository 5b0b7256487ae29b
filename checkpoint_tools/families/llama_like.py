"""The tensors and settings that all Llama-shaped families share.

Theirs: `q_proj [N·D, H]`, `k_proj`, `v_proj [G·D, H]`, `o_proj [H, N·D]`, `gate_proj`, `up_proj [F, H]`,
`down_proj [H, F]`, `embed_tokens`, `lm_head [V, H]`, norms `[H]`, `q_norm`, `k_norm [D]`.
"""

from __future__ import annotations

from checkpoint_tools.families.family import Rule
from checkpoint_tools.layout import GATE_UP, QKV, VOCABULARY
from harness.config.schema import ModelConfig


def has_qkv_bias(model: ModelConfig) -> bool:
    """Return whether queries, keys and values have biases."""
    return model.add_qkv_bias or model.add_bias_linear


def has_biases(model: ModelConfig) -> bool:
    """Return whether the other projections have biases."""
    return model.add_bias_linear


def normalizes_queries(model: ModelConfig) -> bool:
    """Return whether queries and keys have norms."""
    return model.qk_layernorm


def has_own_output(model: ModelConfig) -> bool:
    """Return whether the output layer is not the embedding."""
    return model.untie_embeddings_and_output_weights


_OURS = "decoder.layers.{}."
_THEIRS = "model.layers.{}."
_QKV_NAMES = tuple(f"{_THEIRS}self_attn.{name}_proj" for name in "qkv")
_GATE_UP_NAMES = tuple(f"{_THEIRS}mlp.{name}_proj" for name in ("gate", "up"))

RULES = (
    Rule(ours="embedding.word_embeddings.weight", theirs=("model.embed_tokens.weight",), fusion=VOCABULARY),
    Rule(
        ours=f"{_OURS}self_attention.linear_qkv.layer_norm_weight",
        theirs=(f"{_THEIRS}input_layernorm.weight",),
    ),
    Rule(
        ours=f"{_OURS}self_attention.linear_qkv.weight",
        theirs=tuple(f"{name}.weight" for name in _QKV_NAMES),
        fusion=QKV,
    ),
    Rule(
        ours=f"{_OURS}self_attention.linear_qkv.bias",
        theirs=tuple(f"{name}.bias" for name in _QKV_NAMES),
        fusion=QKV,
        when=has_qkv_bias,
    ),
    Rule(
        ours=f"{_OURS}self_attention.q_layernorm.weight",
        theirs=(f"{_THEIRS}self_attn.q_norm.weight",),
        when=normalizes_queries,
    ),
    Rule(
        ours=f"{_OURS}self_attention.k_layernorm.weight",
        theirs=(f"{_THEIRS}self_attn.k_norm.weight",),
        when=normalizes_queries,
    ),
    Rule(ours=f"{_OURS}self_attention.linear_proj.weight", theirs=(f"{_THEIRS}self_attn.o_proj.weight",)),
    Rule(
        ours=f"{_OURS}self_attention.linear_proj.bias",
        theirs=(f"{_THEIRS}self_attn.o_proj.bias",),
        when=has_biases,
    ),
    Rule(ours=f"{_OURS}mlp.linear_fc1.layer_norm_weight", theirs=(f"{_THEIRS}post_attention_layernorm.weight",)),
    Rule(
        ours=f"{_OURS}mlp.linear_fc1.weight",
        theirs=tuple(f"{name}.weight" for name in _GATE_UP_NAMES),
        fusion=GATE_UP,
    ),
    Rule(
        ours=f"{_OURS}mlp.linear_fc1.bias",
        theirs=tuple(f"{name}.bias" for name in _GATE_UP_NAMES),
        fusion=GATE_UP,
        when=has_biases,
    ),
    Rule(ours=f"{_OURS}mlp.linear_fc2.weight", theirs=(f"{_THEIRS}mlp.down_proj.weight",)),
    Rule(ours=f"{_OURS}mlp.linear_fc2.bias", theirs=(f"{_THEIRS}mlp.down_proj.bias",), when=has_biases),
    Rule(ours="decoder.final_layernorm.weight", theirs=("model.norm.weight",)),
    Rule(ours="output_layer.weight", theirs=("lm_head.weight",), fusion=VOCABULARY, when=has_own_output),
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
