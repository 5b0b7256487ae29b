"""The parameters of a model by the names that users give, and patterns of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from harness.config.schema import ModelConfig

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
_FUSED_NORM = re.compile(r"\.(self_attention\.linear_qkv|mlp\.linear_fc1)\.layer_norm_(weight|bias)$")
_NORM_BEFORE = {"self_attention.linear_qkv": "input_layernorm", "mlp.linear_fc1": "pre_mlp_layernorm"}


def parameter_names(model: ModelConfig) -> list[str]:
    """Return the names of all parameters, as in Megatron's GPT model of plain layers; layers count over all stages."""
    names = [EMBEDDING]
    for layer in range(model.num_layers):
        names += [f"decoder.layers.{layer}.{name}" for name in _layer_names(model)]
    names += _norm_names(model, "decoder.final_layernorm")
    return [*names, OUTPUT] if model.untie_embeddings_and_output_weights else names


def plain_name(name: str) -> str:
    """Return the name of a parameter in a model whose norms are layers of their own.

    Transformer Engine keeps a norm with the product that follows it: `linear_qkv.layer_norm_weight`.
    """
    return _FUSED_NORM.sub(lambda match: f".{_NORM_BEFORE[match[1]]}.{match[2]}", name)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches a pattern: `*` is any text, `?` any character, `[0-3]` one of a set."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _layer_names(model: ModelConfig) -> Iterator[str]:
    yield from _norm_names(model, "input_layernorm")
    yield "self_attention.linear_proj.weight"
    if model.add_bias_linear:
        yield "self_attention.linear_proj.bias"
    yield "self_attention.linear_qkv.weight"
    if model.add_bias_linear or model.add_qkv_bias:
        yield "self_attention.linear_qkv.bias"
    if model.qk_layernorm:
        yield from _norm_names(model, "self_attention.q_layernorm")
        yield from _norm_names(model, "self_attention.k_layernorm")
    yield from _norm_names(model, "pre_mlp_layernorm")
    for product in ("mlp.linear_fc1", "mlp.linear_fc2"):
        yield f"{product}.weight"
        if model.add_bias_linear:
            yield f"{product}.bias"


def _norm_names(model: ModelConfig, name: str) -> list[str]:
    return [f"{name}.weight", *([f"{name}.bias"] if model.normalization == "LayerNorm" else [])]
