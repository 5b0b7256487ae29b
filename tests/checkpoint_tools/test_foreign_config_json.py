"""`config.json` of other people's tools: remarks are passed over, wrong values are named, and no traceback."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers

from checkpoint_tools.families.config_json import Admitted, admit, family_of
from checkpoint_tools.families.family import Family
from checkpoint_tools.families.registry import FAMILIES
from checkpoint_tools.families.remarks import GENERATION, STANDARD
from checkpoint_tools.their_tensors import TheirTensors
from checkpoint_tools.transformers_model import require_shapes
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
NEEDED: dict[str, dict[str, Any]] = {
    "internlm2": {"bias": False},
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "first_k_dense_replace": 1},
}
GPT_2_SIZES = {"vocab_size": 131, "n_embd": 48, "n_inner": 40, "n_layer": 2, "n_head": 4}
LATENT = [name for name, family in FAMILIES.items() if family.has.get("multi_latent_attention")]
WITH_GROUPS = [name for name, family in FAMILIES.items() if "num_key_value_heads" in family.fields]


def given(model_type: str, **fields: Any) -> dict[str, Any]:
    sizes = GPT_2_SIZES if model_type == "gpt2" else SIZES
    return {"model_type": model_type, **sizes, **NEEDED.get(model_type, {}), **fields}


def read(model_type: str, **fields: Any) -> Admitted:
    said = given(model_type, **fields)
    return admit(said, family_of(said))


def refusal(model_type: str, **fields: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        read(model_type, **fields)
    return str(refused.value)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize(
    "remarks",
    [
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"kv_cache_dtype": {}}},
        {"unsloth_fixed": True, "unsloth_version": "2024.9"},
        {"max_sequence_length": 2048},
        {"quantization_config": None, "clip_qkv": None},
        {"pruned_heads": {}, "quantization_config": {}, "some_text": "", "some_list": []},
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True},
        {"_attn_implementation_autoset": True, "_attn_implementation_internal": "someone/kernel"},
        {"partial_rotary_factor": 1.0, "num_experts": 0},
    ],
    ids=lambda remarks: next(iter(remarks)),
)
def test_what_changes_nothing_is_passed_over_told_and_kept_from_the_judge(
    model_type: str, remarks: dict[str, Any]
) -> None:
    family = FAMILIES[model_type]
    rotary = {"partial_rotary_factor"} if family.rotary_share is not None else set()
    known = {*rotary, *family.fixed, *(key for derived in family.derived for key in derived.keys)}
    remarks = {key: value for key, value in remarks.items() if key not in known}
    plain, found = read(model_type), read(model_type, **remarks)
    assert found.model == plain.model
    assert found.fields == plain.fields
    assert found.passed_over == tuple(sorted(remarks))
    assert plain.passed_over == ()


@pytest.mark.parametrize("value", [0, 0.0, True, [0], {"a": None}, " "])
def test_a_key_that_is_not_known_is_refused_if_it_says_something(value: Any) -> None:
    assert "some_key: not known" in refusal("llama", some_key=value)


@pytest.mark.parametrize("scaling", [{"factor": 8.0}, {"type": "default", "factor": "8"}, {"type": "", "factor": 8.0}])
def test_a_factor_is_passed_over_only_beside_a_type_that_is_said(scaling: dict[str, Any]) -> None:
    assert "rope_scaling: " in refusal("llama", rope_scaling=scaling)


@pytest.mark.parametrize("model_type", ["llama", "internlm2"])
def test_a_fixed_number_reaches_the_judge_as_it_is_known(model_type: str) -> None:
    found = read(model_type, pretraining_tp=1.0).fields["pretraining_tp"]
    assert (found, type(found)) == (1, int)


def test_every_setting_of_generation_is_known() -> None:
    """The list stands in our table, so that reading a model needs no transformers; here it is compared with theirs."""
    theirs = set(transformers.GenerationConfig().to_dict())
    assert sorted(theirs - GENERATION - STANDARD) == []


@pytest.mark.parametrize(
    ("scaling", "passed_over"),
    [
        ({"rope_type": "default", "partial_rotary_factor": 1.0}, ("partial_rotary_factor",)),
        ({"type": "default", "factor": 1.0}, ("factor",)),
        (
            {"type": "linear", "factor": 4, "original_max_position_embeddings": 64},
            ("original_max_position_embeddings",),
        ),
        (
            {"type": "dynamic", "factor": 4, "original_max_position_embeddings": 64},
            ("original_max_position_embeddings",),
        ),
        ({"type": "linear", "factor": 4, "attention_factor": None, "rope_type": "linear"}, ()),
        ({"type": "linear", "factor": 4, "finetuned": False}, ("finetuned",)),
        ({"type": "linear", "factor": 4, "mrope_section": []}, ("mrope_section",)),
        ({"type": "default", "factor": 8.0}, ("factor",)),
    ],
)
def test_what_a_type_of_scaling_does_not_use_is_passed_over(scaling: dict[str, Any], passed_over: Any) -> None:
    used = {key: value for key, value in scaling.items() if key not in passed_over}
    for key in ("rope_scaling", "rope_parameters"):
        found = read("llama", **{key: scaling})
        assert found.passed_over == tuple(f"{key}.{name}" for name in passed_over)
        assert found.model == read("llama", **{key: used}).model
        assert found.fields == read("llama", **{key: used}).fields


def test_the_length_that_a_context_grew_from_may_stand_beside_the_scaling() -> None:
    """transformers takes it from there, too."""
    scaling = {"type": "llama3", **LLAMA3}
    rest = {key: value for key, value in scaling.items() if key != "original_max_position_embeddings"}
    whole = read("llama", rope_scaling=scaling)
    for inside in (scaling, rest):
        found = read("llama", rope_scaling=inside, original_max_position_embeddings=64.0)
        assert (found.model, found.fields, found.passed_over) == (whole.model, whole.fields, ())
    assert read("llama", original_max_position_embeddings=64).passed_over == ("original_max_position_embeddings",)
    told = refusal("llama", rope_scaling=scaling, original_max_position_embeddings=8192)
    assert "two of original_max_position_embeddings: 8192, and 64 in the object" in told


def test_whole_floats_and_whole_numbers_are_what_they_mean() -> None:
    found = read("llama", hidden_size=48.0, max_position_embeddings=131072.0, rms_norm_eps=1, initializer_range=1)
    assert found.model == read("llama", rms_norm_eps=1.0, initializer_range=1.0).model
    assert type(found.model.hidden_size) is int
    assert found.fields["max_position_embeddings"] == 131072
    assert type(found.fields["rms_norm_eps"]) is float
    whole = {**LLAMA3, "original_max_position_embeddings": 64.0, "factor": 8}
    assert read("llama", rope_scaling={"type": "llama3", **whole}).model == (
        read("llama", rope_scaling={"type": "llama3", **LLAMA3}).model
    )


@pytest.mark.parametrize("model_type", LATENT)
def test_what_is_missing_of_latents_is_what_the_class_of_the_family_takes(model_type: str) -> None:
    theirs = transformers.AutoConfig.for_model(model_type)
    assert theirs.rms_norm_eps == 1e-6
    said = {key: getattr(theirs, key) for key in ("vocab_size", "hidden_size", "num_attention_heads")}
    said |= {"num_hidden_layers": 4, "intermediate_size": 40, "num_experts_per_tok": 8, "model_type": model_type}
    model = admit(said, FAMILIES[model_type]).model
    assert model.query_groups == theirs.num_key_value_heads
    assert (model.q_lora_rank, model.kv_lora_rank) == (theirs.q_lora_rank, theirs.kv_lora_rank)
    assert (model.qk_head_dim, model.qk_pos_emb_head_dim) == (theirs.qk_nope_head_dim, theirs.qk_rope_head_dim)
    assert (model.v_head_dim, model.expert_width) == (theirs.v_head_dim, theirs.moe_intermediate_size)
    assert (model.num_moe_experts, model.moe_router_topk_scaling_factor) == (
        theirs.n_routed_experts,
        theirs.routed_scaling_factor,
    )
    assert model.moe_shared_expert_intermediate_size == theirs.n_shared_experts * theirs.moe_intermediate_size
    assert model.expert_layers.count(False) == theirs.first_k_dense_replace
    assert (model.moe_router_num_groups, model.moe_router_group_topk) == (theirs.n_group, theirs.topk_group)


@pytest.mark.parametrize(
    "model_type", [name for name in WITH_GROUPS if FAMILIES[name].judge is None and name not in LATENT]
)
def test_what_is_missing_or_null_is_what_the_class_of_the_family_takes(model_type: str) -> None:
    said = {**SIZES, "num_attention_heads": 32, "hidden_size": 768}
    del said["num_key_value_heads"]
    theirs = transformers.AutoConfig.for_model(model_type, **said)
    nulls = ("rms_norm_eps", "initializer_range", "tie_word_embeddings", "rope_theta", "rope_scaling", "head_dim")
    more = {**NEEDED.get(model_type, {}), "model_type": model_type}
    for fields in ({**said, **more}, {**said, **more, **dict.fromkeys((*nulls, "attention_bias", "mlp_bias"))}):
        model = admit(fields, FAMILIES[model_type]).model
        assert (model.query_groups, model.head_size) == (
            theirs.num_key_value_heads,
            getattr(theirs, "head_dim", None) or 24,
        )
        assert (model.norm_epsilon, model.init_method_std) == (theirs.rms_norm_eps, theirs.initializer_range)
        assert model.untie_embeddings_and_output_weights is not theirs.tie_word_embeddings
        rotary = theirs.rope_parameters.get("full_attention", theirs.rope_parameters)
        assert model.rotary_base == rotary["rope_theta"]


def test_what_is_missing_or_null_is_what_gpt2_takes() -> None:
    said = {"vocab_size": 131, "n_embd": 48, "n_layer": 2, "n_head": 4}
    theirs = transformers.AutoConfig.for_model("gpt2", **said)
    nulls = ("n_positions", "n_inner", "layer_norm_epsilon", "initializer_range", "tie_word_embeddings")
    for fields in (said, {**said, **dict.fromkeys(nulls)}):
        model = admit({"model_type": "gpt2", **fields}, FAMILIES["gpt2"]).model
        assert (model.max_position_embeddings, model.ffn_hidden_size) == (theirs.n_positions, 4 * 48)
        assert (model.norm_epsilon, model.init_method_std) == (theirs.layer_norm_epsilon, theirs.initializer_range)
        assert not model.untie_embeddings_and_output_weights


@pytest.mark.parametrize("model_type", WITH_GROUPS)
def test_groups_of_null_are_as_many_as_heads(model_type: str) -> None:
    found = read(model_type, num_key_value_heads=None)
    assert (found.model.query_groups, found.fields["num_key_value_heads"]) == (4, 4)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": "512"}, "vocab_size: '512' is not a whole number from 1 to 16,777,216"),
    ({"vocab_size": 131.5}, "vocab_size: 131.5 is not a whole number"),
    ({"hidden_size": True}, "hidden_size: true is not a whole number"),
    ({"hidden_size": [48]}, "hidden_size: a list of 1 is not a whole number"),
    ({"num_hidden_layers": 10**30}, "num_hidden_layers: 1000000000000000000000000000000 is not a whole number"),
    ({"num_attention_heads": 0}, "num_attention_heads: 0 is not a whole number"),
    ({"num_key_value_heads": -2}, "num_key_value_heads: -2 is not a whole number"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan is not a number from 1e-30 to 1"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps: '1e-5' is not a number"),
    ({"rms_norm_eps": 0}, "rms_norm_eps: 0 is not a number"),
    ({"rope_theta": float("inf")}, "rope_theta: inf is not a number from 1 to 1e+18"),
    ({"rope_theta": {"a": 1}}, "rope_theta: an object is not a number"),
    ({"rope_theta": 10**400}, "rope_theta: 1000"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings: 'false' is not true or false"),
    ({"tie_word_embeddings": 0}, "tie_word_embeddings: 0 is not true or false"),
    ({"attention_bias": 1, "mlp_bias": 1}, "attention_bias: 1 is not true or false"),
    ({"max_position_embeddings": "2048"}, "max_position_embeddings: '2048' is not a whole number"),
    ({"eos_token_id": "</s>"}, "eos_token_id: '</s>' is not the id of a token, or a list of such ids"),
    ({"pretraining_tp": True}, "pretraining_tp: true, known is 1"),
    ({"hidden_act": {"name": "silu"}}, "hidden_act: an object, known is silu"),
    ({"layer_types": "full_attention"}, "layer_types: 'full_attention' is not a list"),
    ({"layer_types": [["full_attention"]]}, "layer_types: a list of 1 in it, known is full_attention"),
    ({"layer_types": ["full_attention"]}, "layer_types: 1 layers, but num_hidden_layers is 2"),
    ({"rope_scaling": "linear"}, "rope_scaling: 'linear' is not an object"),
    ({"rope_scaling": [1]}, "rope_scaling: a list of 1 is not an object"),
    ({"rope_scaling": {"type": ["linear"]}}, "rope_scaling: type a list of 1, known are default"),
    ({"rope_scaling": {"type": "linear", "factor": "2.0"}}, "rope_scaling.factor: '2.0' is not a number"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor: 0 is not a number"),
    ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "rope_scaling.factor: -1.0 is not a number"),
    ({"rope_scaling": {"type": "linear", "factor": True}}, "rope_scaling.factor: true is not a number"),
    ({"rope_scaling": {"type": "linear", "factor": None}}, "rope_scaling: linear with [], known is ['factor']"),
    ({"rope_scaling": {"type": "linear", "rope_type": "llama3"}}, "rope_type 'llama3' and type 'linear' contradict"),
    ({"rope_scaling": {"factor": 2.0}}, "rope_scaling: default with ['factor'], known is []"),
    (
        {"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
        "rope_scaling.low_freq_factor: 1.0 must be smaller than high_freq_factor, 1.0",
    ),
    (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
        "rope_parameters and rope_scaling contradict each other. Delete one of them",
    ),
    ({"sliding_window": 4096}, "sliding_window: not known, so it may change what the model computes. If it is only a"),
    ({"quantization_config": {"bits": 4}}, "quantization_config: its weights are quantized"),
]


@pytest.mark.parametrize(("fields", "problem"), WRONG, ids=[problem.split(" ")[0] for _, problem in WRONG])
def test_a_wrong_value_is_named(fields: dict[str, Any], problem: str) -> None:
    assert problem in refusal("llama", **fields)


def test_every_wrong_value_is_in_the_one_message() -> None:
    told = refusal("llama", vocab_size="1", rope_scaling={"type": "linear", "factor": 0}, later=1, hidden_act="gelu")
    assert [line.split(":")[0].strip() for line in told.splitlines()[1:]] == [
        "vocab_size",
        "hidden_act",
        "later",
        "rope_scaling.factor",
    ]


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 3, 10**6, 10**30, 10**400, 1.0, 2.0, 0.5, -0.0, 1e-300, 1e300),
    *(float("nan"), float("inf"), "", "1", "linear", "default", "\ud800", "x" * 5000),
    *([], [1], ["full_attention"], ["full_attention", "full_attention"], [[]], [None]),
    *({}, {"a": {}}, {"rope_type": "linear"}, {"rope_theta": 2.0}, {"type": [], "factor": {}}),
)
ROTARY = ("rope_type", "type", "factor", "rope_theta", "original_max_position_embeddings", "low_freq_factor", "later")


def outcome(fields: dict[str, Any], seen: set[str]) -> None:
    """Whatever a file says, it is a model that transformers builds too, or an error that names what is wrong.

    The judge is asked once for what is the same to it: `seen`.
    """
    try:
        family = family_of(fields)
        found = admit(fields, family)
    except CheckpointError as error:
        assert all(len(line) < 400 for line in str(error).splitlines())
        return
    assert isinstance(found.model, ModelConfig)
    text = json.dumps([family.model_type, found.fields], sort_keys=True)
    if found.model.num_layers <= 3 and text not in seen:
        seen.add(text)
        judged(found, family)


def judged(found: Admitted, family: Family) -> None:
    theirs = TheirTensors(path=Path("m"), fields=found.fields, family=family, model=found.model, files={}, headers={})
    with pytest.raises(CheckpointError, match=r"is not the model of its config\.json|transformers refuses m"):
        require_shapes(theirs)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_odd_value_of_any_key_ends_in_a_traceback(model_type: str) -> None:
    family, seen = FAMILIES[model_type], set[str]()
    keys = {*family.fields, *family.fixed, *family.ignored, *STANDARD, "tie_word_embeddings", "layer_types"}
    keys |= {
        "original_max_position_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "attention_bias",
        "mlp_bias",
        "max_position_embeddings",
    }
    for key, value in itertools.product(sorted(keys), ODD):
        outcome({**given(model_type), key: value}, seen)
    for key in keys:
        outcome({name: value for name, value in given(model_type).items() if name != key}, seen)
    objects = ({"rope_type": "linear", "factor": 2.0}, {"type": "llama3", **LLAMA3})
    for outer, inner, said, value in itertools.product(("rope_scaling", "rope_parameters"), ROTARY, objects, ODD):
        outcome({**given(model_type), outer: {**said, inner: value}}, seen)


def test_no_odd_values_together_end_in_a_traceback() -> None:
    draw, seen = random.Random(7), set[str]()
    for _ in range(1500):
        fields = given(draw.choice(list(FAMILIES)), rope_scaling={"type": "llama3", **LLAMA3})
        for _ in range(draw.randint(1, 4)):
            place = draw.choice([fields, fields.get("rope_scaling")])
            if isinstance(place, dict):
                place[draw.choice([*place, *ROTARY, "rope_parameters", "later"])] = draw.choice(ODD)
        outcome(fields, seen)
