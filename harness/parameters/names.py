"""Names of parameters: in the whole model, with Transformer Engine's fused norms, in a layer; and patterns of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

EMBEDDING = "embedding.word_embeddings.weight"
POSITIONS = "embedding.position_embeddings.weight"
OUTPUT = "output_layer.weight"
LAYERS = "decoder.layers."
"""Prefix of every layer's parameters: in front of the layer's number, or of a tensor that stacks all layers."""

_IN_LAYER = re.compile(rf"{re.escape(LAYERS)}([0-9]+)\.(.+)")
_PRODUCT_AFTER = {"input_layernorm": "self_attention.linear_qkv", "pre_mlp_layernorm": "mlp.linear_fc1"}
_NORM_BEFORE = {product: norm for norm, product in _PRODUCT_AFTER.items()}
_FUSED = re.compile(rf"\.({'|'.join(map(re.escape, _NORM_BEFORE))})\.layer_norm_(weight|bias)$")
_PLAIN = re.compile(rf"\.({'|'.join(_PRODUCT_AFTER)})\.(weight|bias)$")


def plain_name(name: str) -> str:
    """Return the name that a parameter has where norms are layers of their own.

    Transformer Engine keeps a norm with the product that follows it: `linear_qkv.layer_norm_weight`.
    """
    return _FUSED.sub(lambda match: f".{_NORM_BEFORE[match[1]]}.{match[2]}", name)


def fused_name(name: str, *, is_latent: bool = False) -> str:
    """Return the name that a parameter has in Transformer Engine's layers and in every checkpoint.

    With latent attention, several products follow the norm in front of it, and it keeps its name.
    """
    if is_latent and ".input_layernorm." in name:
        return name
    return _PLAIN.sub(lambda match: f".{_PRODUCT_AFTER[match[1]]}.layer_norm_{match[2]}", name)


def in_layer(layer: int, name: str) -> str:
    """Return a parameter's name in the whole model from its name in a layer."""
    return f"{LAYERS}{layer}.{name}"


def split_layer(name: str) -> tuple[int | None, str]:
    """Return the number of the layer and the name in it; for a parameter outside of the layers None and its name."""
    match = _IN_LAYER.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern matches a name: `*` is any text, `?` one character, `[0-3]` one of these."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
