"""Names in both spellings of norms, and with the number of the layer."""

from __future__ import annotations

import pytest

from harness.parameters.names import fused_name, in_layer, matches_any, plain_name, split_layer

BOTH = [
    ("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight"),
    ("input_layernorm.bias", "self_attention.linear_qkv.layer_norm_bias"),
    ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"),
    ("pre_mlp_layernorm.bias", "mlp.linear_fc1.layer_norm_bias"),
    ("mlp.linear_fc1.weight", "mlp.linear_fc1.weight"),
    ("self_attention.q_layernorm.weight", "self_attention.q_layernorm.weight"),
]


@pytest.mark.parametrize(("plain", "fused"), BOTH)
def test_both_spellings_are_each_other_s(plain: str, fused: str) -> None:
    assert fused_name(in_layer(3, plain)) == in_layer(3, fused)
    assert plain_name(in_layer(3, fused)) == in_layer(3, plain)
    assert plain_name(in_layer(3, plain)) == in_layer(3, plain)
    assert fused_name(in_layer(3, fused)) == in_layer(3, fused)


@pytest.mark.parametrize("name", ["decoder.final_layernorm.weight", "embedding.word_embeddings.weight"])
def test_names_outside_of_layers_have_one_spelling_and_no_number(name: str) -> None:
    assert (plain_name(name), fused_name(name), split_layer(name)) == (name, name, (None, name))


def test_the_number_of_a_layer_is_taken_apart_from_the_name() -> None:
    assert split_layer("decoder.layers.12.mlp.linear_fc2.weight") == (12, "mlp.linear_fc2.weight")
    assert split_layer("decoder.layers.mlp.linear_fc2.weight") == (None, "decoder.layers.mlp.linear_fc2.weight")


def test_patterns() -> None:
    assert matches_any("decoder.layers.3.mlp.linear_fc1.weight", ("embedding.*", "decoder.layers.[0-3].*"))
    assert not matches_any("decoder.layers.4.mlp.linear_fc1.weight", ("embedding.*", "decoder.layers.[0-3].*"))


def test_the_norm_in_front_of_latents_keeps_its_name() -> None:
    norm = in_layer(3, "input_layernorm.weight")
    assert fused_name(norm, is_latent=True) == norm
    behind = in_layer(3, "pre_mlp_layernorm.weight")
    assert fused_name(behind, is_latent=True) == fused_name(behind)
