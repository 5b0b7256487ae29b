"""`config.json`: what is taken from it, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint_tools.families.config_json import admit, family_of, fields_for
from checkpoint_tools.families.registry import FAMILIES, family_for_writing
from checkpoint_tools.families.rotation import dynamic_scaling, rotary_fields
from harness.config.model import ModelConfig
from harness.errors import CheckpointError, UsageError

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def read(model_type: str, **fields: Any) -> ModelConfig:
    given = {"model_type": model_type, **SIZES, **fields}
    return admit(given, family_of(given)).model


def test_transformers_4_and_5_spell_rotary_settings_differently() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = read("llama", rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
    new = read("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    assert old == new
    assert (old.rotary_base, old.rope_scaling.factor if old.rope_scaling else None) == (5e5, 8.0)


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({}, {}),
        ({"beta_fast": 16.0, "mscale": 0.707, "mscale_all_dim": 0.5}, None),
        ({"mscale": 0.707}, {}),  # transformers wants both
        ({"mscale": 0.0, "mscale_all_dim": 1.0}, {}),
        ({"mscale": 0.707, "mscale_all_dim": 0.5, "attention_factor": 1.5}, {"attention_factor": 1.5}),
        ({"truncate": False}, None),
    ],
)
def test_yarn_is_what_transformers_makes_of_it(more: dict[str, Any], fields: dict[str, Any] | None) -> None:
    model = read("llama", rope_scaling={**YARN, **more})
    assert model.rope_scaling is not None
    fields = more if fields is None else fields
    assert model.rope_scaling.model_dump(exclude_defaults=True) == {**YARN, **fields}
    written = rotary_fields(model)["rope_scaling"]
    assert read("llama", rope_scaling=written) == model
    numbers = {key: value for key, value in YARN.items() if key != "type"}
    assert written == {**numbers, "rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0, **fields}


def test_what_is_not_said_is_what_transformers_takes() -> None:
    model = read("llama")
    assert (model.norm_epsilon, model.rotary_base, model.untie_embeddings_and_output_weights) == (1e-6, 1e4, True)
    assert (model.head_size, model.add_bias_linear, model.rope_scaling) == (12, False, None)


@pytest.mark.parametrize(
    ("model_type", "fields", "problem"),
    [
        ("llama", {"num_experts": 8}, "num_experts: not known"),
        ("llama", {"num_experts": True}, "num_experts: not known, so it may change what the model computes. If it is"),
        ("llama", {"quantization_config": {"bits": 8}}, "quantization_config: its weights are quantized"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act: 'gelu', known is silu"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp: 2, known is 1"),
        ("llama", {"attention_bias": True}, "attention_bias: true with mlp_bias false; known are both or neither"),
        ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_scaling: type 'longrope', known are"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling: yarn with ['factor'], known is"),
        ("llama", {"rope_scaling": {**YARN, "truncate": None}}, "rope_scaling.truncate: null is not true or false"),
        ("llama", {"rope_scaling": {**YARN, "beta_fast": 0.5}}, "rope_scaling: rope_scaling.beta_fast must be at"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling: linear with [], known is ['factor']"),
        (
            "llama",
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "rope_parameters: default with ['partial_rotary",
        ),
        (
            "llama",
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "two bases: rope_theta 10000.0, rope_th",
        ),
        ("llama", {"rope_scaling": {"type": "dynamic"}}, "rope_scaling: dynamic with [], known is ['factor']"),
        ("llama", {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_scaling: type 'ntk', known are default"),
        ("qwen2", {"use_mrope": True}, "use_mrope: true, known is false"),
        ("internlm2", {"bias": False, "pretraining_tp": 2}, "pretraining_tp: 2, known is 1"),
        ("llama", {"hidden_size": "48"}, "hidden_size: '48' is not a whole number from 1 to"),
        ("llama", {"num_hidden_layers": None}, "num_hidden_layers: missing, or null"),
        ("mistral", {"sliding_window": 0}, "sliding_window: 0 is not a whole number from 1 to"),
        (
            "mistral",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "'sliding_attention' in it, known is full",
        ),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window: 1 is not true or false"),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: sliding_attention in it, but no sliding_window",
        ),
        (
            "gemma2",
            {"layer_types": ["full_attention", "chunked_attention"]},
            "layer_types: 'chunked_attention' in it, known are full_attention and sliding_attention",
        ),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation: 'gelu', known is gelu_pytorch_tanh"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": 1}},
            "rope_parameters.full_attention: 1 is not an object",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters.sliding_attention: rope_type is 'linear'; known is a base alone",
        ),
        (
            "gemma3_text",
            {"rope_local_base_freq": 500.0, "rope_parameters": {"sliding_attention": {"rope_theta": 100.0}}},
            "rope_local_base_freq: 500.0, but rope_parameters.sliding_attention says 100.0",
        ),
        ("gpt_oss", {"swiglu_limit": 6.0}, "swiglu_limit: 6.0, known is 7.0"),
        ("gpt_oss", {"attention_bias": False}, "attention_bias: false, known is true"),
        ("qwen3", {"attention_bias": True}, "attention_bias: true, known is false"),
        ("internlm2", {}, "bias: missing, so that transformers takes its default, true, known is false"),
        ("internlm2", {"bias": False, "rope_scaling": {"type": "longrope"}}, "type 'longrope'"),
        ("minimind", {"use_moe": True, "n_shared_experts": 2}, "n_shared_experts: 2, known is 1"),
    ],
)
def test_unknown_features_are_refused_by_name(model_type: str, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        read(model_type, **fields)
    assert "config.json describes a model that this version of harness does not know:\n" in str(refused.value)
    assert problem in str(refused.value)


def test_unknown_families_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"model_type 'bert'; this version of harness knows llama, mistral, "):
        family_of({"model_type": "bert"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma3", "it reads pictures too; its model of texts alone is gemma3_text"),
        ("internlm", "only its attention has biases"),
    ],
)
def test_families_that_are_often_asked_for_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        family_of({"model_type": name})
    assert f"config.json says model_type {name!r} ({reason}); this version of harness knows" in str(refused.value)


def test_a_stretching_of_longer_sequences_alone_is_no_stretching() -> None:
    dynamic = {"type": "dynamic", "factor": 2.0}
    stretched = read("internlm2", bias=False, rope_theta=1e6, rope_scaling=dynamic)
    assert stretched == read("internlm2", bias=False, rope_theta=1e6)
    assert dynamic_scaling({"rope_scaling": dynamic}) == dynamic
    assert dynamic_scaling({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}}) == {
        "rope_type": "dynamic",
        "factor": 2.0,
    }
    assert dynamic_scaling({"rope_scaling": {"type": "linear", "factor": 2.0}}) is None


EXPERTS = {
    "num_moe_experts": 4,
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
}


LATENT = {
    "multi_latent_attention": True,
    "qk_layernorm": True,
    "norm_epsilon": 1e-6,
    "moe_shared_expert_intermediate_size": 40,
}


def model(**changes: Any) -> ModelConfig:
    sizes = {"num_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "ffn_hidden_size": 40, "vocab_size": 131}
    return ModelConfig.model_validate(sizes | changes)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "llama"),
        ({"add_bias_linear": True}, "llama"),
        ({"add_qkv_bias": True}, "qwen2"),
        ({"qk_layernorm": True}, "qwen3"),
        (EXPERTS, "mixtral"),
        ({**EXPERTS, "qk_layernorm": True, "moe_layer_freq": [0, 1]}, "qwen3_moe"),
        ({**EXPERTS, "qk_layernorm": True, "qk_layernorm_over": "width"}, "olmoe"),
        (
            {
                "num_moe_experts": 4,
                "moe_shared_expert_intermediate_size": 80,
                "moe_layer_freq": [0, 1],
                "rotary_percent": 0.5,
            },
            "glm4_moe",
        ),
        (
            {
                **EXPERTS,
                "add_qkv_bias": True,
                "moe_router_pre_softmax": True,
                "moe_shared_expert_intermediate_size": 24,
                "moe_shared_expert_gate": True,
            },
            "qwen2_moe",
        ),
        ({**LATENT, "num_moe_experts": 4}, "deepseek_v3"),
        ({**LATENT, **EXPERTS, "moe_router_pre_softmax": True}, "deepseek_v2"),
    ],
)
def test_the_features_decide_on_the_family(changes: dict[str, Any], family: str) -> None:
    assert family_for_writing(model(**changes), None).model_type == family


@pytest.mark.parametrize(
    ("changes", "wanted", "problem"),
    [
        ({"normalization": "LayerNorm"}, None, "llama: model.normalization is LayerNorm, the family has RMSNorm"),
        ({"activation": "geglu"}, "mistral", "mistral: model.activation is geglu, the family has swiglu"),
        ({"qk_layernorm": True}, "llama", "llama: model.qk_layernorm is True, the family has False"),
        (
            {"num_moe_experts": 4},
            None,
            "mixtral: model.moe_router_score_function is sigmoid, the family has softmax; "
            "model.moe_router_enable_expert_bias is True, the family has False",
        ),
        (EXPERTS, "llama", "llama: model.num_moe_experts is 4, the family has None"),
        ({"kv_channels": 24}, "internlm2", "internlm2: model.head_size is 24, the family has 12"),
        (
            {},
            "bert",
            "There is no family 'bert' to write. Families: llama, mistral, qwen2, qwen3, olmo2, gemma, gemma2, ",
        ),
    ],
)
def test_what_no_family_can_express_is_refused_by_name(
    changes: dict[str, Any], wanted: str | None, problem: str
) -> None:
    with pytest.raises(UsageError) as refused:
        family_for_writing(model(**changes), wanted)
    assert problem in str(refused.value)


def test_a_fixed_ntk_stretching_is_written_as_the_base_that_it_is() -> None:
    stretched = model(rope_scaling={"type": "ntk", "factor": 4.0}, kv_channels=16)
    fields = fields_for(stretched, FAMILIES["llama"], {})
    assert fields["rope_theta"] == 10000.0 * 4.0 ** (16 / 14)
    assert fields["rope_scaling"] is None


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_is_written_is_read_as_the_same_model(name: str) -> None:
    own = {"llama": {"add_bias_linear": True}, "qwen2": {"add_qkv_bias": True}, "qwen3": {"qk_layernorm": True}}
    given = model(num_query_groups=2, kv_channels=24, rotary_base=5e5, **own.get(name, {}))
    written = fields_for(given, FAMILIES[name], {"eos_token_id": 2})
    assert admit(written, FAMILIES[name]).model == given
