"""The table of a model's parameters: what is in it, how it is cut, drawn and counted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness.config.model import ModelConfig
from harness.parameters.names import EMBEDDING, OUTPUT, in_layer, plain_name
from harness.parameters.parameter import Cut
from harness.parameters.table import find_parameter, parameter_table

GPT2 = {"normalization": "LayerNorm", "add_bias_linear": True, "activation": "gelu"}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": GPT2,
    "qwen2": {"add_qkv_bias": True},
    "qwen3, tied": {"qk_layernorm": True, "untie_embeddings_and_output_weights": False},
    "latent": {"num_query_groups": None, "multi_latent_attention": True, "q_lora_rank": 6, "qk_layernorm": True},
    "everything": {**GPT2, "activation": "geglu", "qk_layernorm": True, "add_qkv_bias": True},
}


def model_of(**changes: Any) -> ModelConfig:
    sizes = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_query_groups": 2}
    return ModelConfig.model_validate(sizes | {"ffn_hidden_size": 24, "vocab_size": 100} | changes)


def names(**changes: Any) -> set[str]:
    return {parameter.name for parameter in parameter_table(model_of(**changes))}


def in_layers(*kinds: str) -> set[str]:
    return {in_layer(layer, kind) for layer in range(2) for kind in kinds}


def test_the_parameters_of_a_plain_model_in_their_order() -> None:
    assert [parameter.name for parameter in parameter_table(model_of(num_layers=1))] == [
        "embedding.word_embeddings.weight",
        "decoder.layers.0.input_layernorm.weight",
        "decoder.layers.0.self_attention.linear_proj.weight",
        "decoder.layers.0.self_attention.linear_qkv.weight",
        "decoder.layers.0.pre_mlp_layernorm.weight",
        "decoder.layers.0.mlp.linear_fc1.weight",
        "decoder.layers.0.mlp.linear_fc2.weight",
        "decoder.final_layernorm.weight",
        "output_layer.weight",
    ]


def test_each_option_adds_its_parameters_and_no_others() -> None:
    plain = names()
    assert names(untie_embeddings_and_output_weights=False) == plain - {OUTPUT}
    assert names(add_qkv_bias=True) - plain == in_layers("self_attention.linear_qkv.bias")
    products = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    assert names(add_bias_linear=True) - plain == in_layers(*(f"{product}.bias" for product in products))
    assert names(qk_layernorm=True) - plain == in_layers(
        "self_attention.q_layernorm.weight", "self_attention.k_layernorm.weight"
    )
    norms = in_layers("input_layernorm.bias", "pre_mlp_layernorm.bias") | {"decoder.final_layernorm.bias"}
    assert names(normalization="LayerNorm") - plain == norms
    others = [changes for changes in MODELS.values() if "multi_latent_attention" not in changes]
    assert all(plain <= names(**changes) | {OUTPUT} for changes in others)


LATENT = {
    **{"num_query_groups": None, "multi_latent_attention": True, "kv_lora_rank": 5, "qk_head_dim": 7},
    **{"qk_pos_emb_head_dim": 2, "v_head_dim": 3},
}


def test_latents_take_the_place_of_one_projection() -> None:
    plain = names()
    without = in_layers("self_attention.linear_qkv.weight")
    of_keys = in_layers("self_attention.linear_kv_down_proj.weight", "self_attention.linear_kv_up_proj.weight")
    of_queries = in_layers("self_attention.linear_q_down_proj.weight", "self_attention.linear_q_up_proj.weight")
    assert names(**LATENT) == plain - without | of_keys | in_layers("self_attention.linear_q_proj.weight")
    assert names(**LATENT, q_lora_rank=6) == plain - without | of_keys | of_queries
    norms = in_layers("self_attention.q_layernorm.weight", "self_attention.kv_layernorm.weight")
    assert names(**LATENT, q_lora_rank=6, qk_layernorm=True) - names(**LATENT, q_lora_rank=6) == norms


def test_ranks_share_heads_and_no_latents() -> None:
    model = model_of(**LATENT, q_lora_rank=6, qk_layernorm=True)
    found = {p.name.rpartition("self_attention.")[2]: (p.shape, p.cut) for p in parameter_table(model) if p.layer == 0}
    assert {name: found[name] for name in found if name.startswith(("linear_q", "linear_kv", "q_", "kv_"))} == {
        "linear_q_down_proj.weight": ((6, 16), None),
        "q_layernorm.weight": ((6,), None),
        "linear_q_up_proj.weight": ((4 * 9, 6), Cut(dim=0)),
        "linear_kv_down_proj.weight": ((5 + 2, 16), None),
        "kv_layernorm.weight": ((5,), None),
        "linear_kv_up_proj.weight": ((4 * (7 + 3), 5), Cut(dim=0)),
    }
    assert found["linear_proj.weight"] == ((16, 4 * 3), Cut(dim=1))


@pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))
def test_matrices_are_drawn_and_decay_norms_and_biases_do_neither(changes: dict[str, Any]) -> None:
    for parameter in parameter_table(model_of(**changes)):
        is_matrix = len(parameter.shape) == 2
        assert parameter.decays == (parameter.initial.deviation > 0) == is_matrix, parameter.name
        is_scale = not is_matrix and parameter.name.endswith("weight")
        assert parameter.initial.mean == (1.0 if is_scale else 0.0), parameter.name


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
def test_norms_are_whole_on_every_rank_under_both_names(name: str) -> None:
    norm = find_parameter(in_layer(0, name), model_of(**MODELS["everything"]))
    assert norm.cut is None
    assert norm.initial.deviation == 0.0
    assert norm.name == plain_name(in_layer(0, name))


@pytest.mark.parametrize(
    ("name", "shape", "cut", "bias_cut"),
    [
        ("self_attention.linear_qkv", (32, 16), Cut(dim=0), Cut(dim=0)),
        ("self_attention.linear_proj", (16, 16), Cut(dim=1), None),
        ("mlp.linear_fc1", (48, 16), Cut(dim=0, num_blocks=2), Cut(dim=0, num_blocks=2)),
        ("mlp.linear_fc2", (16, 24), Cut(dim=1), None),
    ],
)
def test_projections(name: str, shape: tuple[int, int], cut: Cut, bias_cut: Cut | None) -> None:
    model = model_of(add_bias_linear=True)
    weight, bias = (find_parameter(in_layer(1, f"{name}.{kind}"), model) for kind in ("weight", "bias"))
    assert (weight.shape, weight.cut, weight.layer) == (shape, cut, 1)
    assert (bias.shape, bias.cut, bias.num_multiplied) == ((shape[0],), bias_cut, 0)
    assert weight.num_multiplied == math.prod(shape)
    is_into_residual = name in ("self_attention.linear_proj", "mlp.linear_fc2")
    assert weight.writes_to_residual == bias.writes_to_residual == is_into_residual
    assert weight.initial.deviation == (0.02 / math.sqrt(4) if is_into_residual else 0.02)


def test_an_ungated_projection_is_one_block() -> None:
    fc1 = find_parameter("decoder.layers.0.mlp.linear_fc1.weight", model_of(activation="gelu"))
    assert (fc1.shape, fc1.cut) == ((24, 16), Cut(dim=0))


def test_a_tied_embedding_is_multiplied_with_and_stands_at_both_ends() -> None:
    untied, tied = model_of(), model_of(untie_embeddings_and_output_weights=False)
    embedding, output, both = (
        find_parameter(EMBEDDING, untied),
        find_parameter(OUTPUT, untied),
        find_parameter(EMBEDDING, tied),
    )
    assert (embedding.ends, embedding.num_multiplied) == (("first",), 0)
    assert (output.ends, output.num_multiplied) == (("last",), 1600)
    assert (both.ends, both.num_multiplied) == (("first", "last"), 1600)
    assert (embedding.shape, embedding.size, embedding.num_true) == ((128, 16), 2048, 1600)
    assert all((p.layer is None) == bool(p.ends) for p in parameter_table(tied))


def test_what_is_not_in_the_table_is_named() -> None:
    with pytest.raises(AssertionError, match=r"has no decoder\.layers\.2\.mlp\.linear_fc1\.weight"):
        find_parameter("decoder.layers.2.mlp.linear_fc1.weight", model_of())


def test_hidden_matrices_and_their_projections() -> None:
    """What Muon updates: all of two dimensions but tables of the vocabulary, projection by projection."""
    model = model_of(**MODELS["everything"])
    in_first = {
        "self_attention.linear_qkv.weight": (8, 4, 4),  # of each query group
        "self_attention.linear_proj.weight": (16,),
        "mlp.linear_fc1.weight": (24, 24),  # gate, up
        "mlp.linear_fc2.weight": (16,),
    }
    found = {parameter.name: parameter.projections for parameter in parameter_table(model) if parameter.is_matrix}
    assert found == {in_layer(layer, name): rows for layer in range(2) for name, rows in in_first.items()}
    assert not find_parameter(EMBEDDING, model).is_matrix
    assert not find_parameter(OUTPUT, model).is_matrix


def test_each_expert_has_matrices_and_a_router_is_one() -> None:
    experts = {"num_moe_experts": 4, "moe_ffn_hidden_size": 10, "moe_shared_expert_intermediate_size": 6}
    found = {
        parameter.name.split(".mlp.")[1]: parameter.projections
        for parameter in parameter_table(model_of(num_layers=1, **experts))
        if ".mlp." in parameter.name
    }
    assert found == {
        "router.weight": (4,),
        "router.expert_bias": (),
        "experts.linear_fc1.weight": (10, 10),
        "experts.linear_fc2.weight": (16,),
        "shared_experts.linear_fc1.weight": (6, 6),
        "shared_experts.linear_fc2.weight": (16,),
    }
