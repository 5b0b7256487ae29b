"""Norms are filled with ones and never cut, under the names of our layers and of Transformer Engine's."""

from __future__ import annotations

import pytest

from harness.config.schema import ModelConfig
from harness.model.initial_weights import cut_of, standard_deviation

MODEL = ModelConfig(num_layers=2, hidden_size=16, num_attention_heads=2, ffn_hidden_size=16, vocab_size=8)
LAYER = "decoder.layers.0."


@pytest.mark.parametrize(
    "name",
    [
        "input_layernorm.weight",
        "pre_mlp_layernorm.weight",
        "self_attention.q_layernorm.weight",
        "self_attention.linear_qkv.layer_norm_weight",
        "self_attention.linear_qkv.layer_norm_bias",
        "mlp.linear_fc1.layer_norm_weight",
    ],
)
def test_norms(name: str) -> None:
    assert cut_of(LAYER + name, MODEL).dim is None
    assert standard_deviation(LAYER + name, MODEL) is None


@pytest.mark.parametrize(
    ("name", "dim"),
    [("self_attention.linear_qkv.weight", 0), ("mlp.linear_fc1.weight", 0), ("mlp.linear_fc2.weight", 1)],
)
def test_matrices(name: str, dim: int) -> None:
    assert cut_of(LAYER + name, MODEL).dim == dim
    assert standard_deviation(LAYER + name, MODEL) is not None
