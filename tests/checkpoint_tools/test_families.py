"""The tables of the families cover the table of parameters, no more and no less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama import LLAMA
from checkpoint_tools.families.registry import FAMILIES
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.parameters.names import plain_name
from harness.parameters.table import parameter_table

SIZES = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "ffn_hidden_size": 24, "vocab_size": 100}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm", "LayerNorm"),
    "activation": ("swiglu", "gelu", "geglu_tanh"),
    "layernorm_zero_centered_gamma": (False, True),
    "scale_embedding": (False, True),
    "add_bias_linear": (False, True),
    "add_qkv_bias": (False, True),
    "qk_layernorm": (False, True),
    "qk_layernorm_over": ("head", "width"),
    "norm_placement": ("before", "behind", "around"),
    "untie_embeddings_and_output_weights": (False, True),
    "kv_channels": (None, 6),
}


SOFTMAX = {"num_moe_experts": 4, "moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False}
SHARED = {"moe_shared_expert_intermediate_size": 8, "moe_shared_expert_gate": True}
MLPS: tuple[dict[str, Any], ...] = (
    {},
    SOFTMAX,
    {**SOFTMAX, **SHARED, "moe_layer_freq": [0, 1]},
    {**SOFTMAX, "moe_layer_freq": [0, 1], "moe_router_pre_softmax": True},
    {"num_moe_experts": 4, "moe_layer_freq": [0, 1], "moe_shared_expert_intermediate_size": 24},
)
"""Dense, and with experts of several kinds."""
LATENT = {"multi_latent_attention": True, "qk_layernorm": True, "norm_epsilon": 1e-6, **MLPS[-1]}
OF_DEEPSEEK: tuple[dict[str, Any], ...] = (
    {**LATENT, "q_lora_rank": 6},
    {**LATENT, "untie_embeddings_and_output_weights": False},
    {**LATENT, **SOFTMAX, "moe_router_pre_softmax": True},
)


WINDOWS = {"window_size": 3, "window_attn_skip_freq": 2}
LEARNED = {"position_embedding_type": "learned_absolute", "max_position_embeddings": 8}
GEMMA: dict[str, Any] = {
    **{"activation": "geglu_tanh", "layernorm_zero_centered_gamma": True, "scale_embedding": True},
    **{"norm_placement": "around", "attn_logit_softcapping": 5.0},
}
OTHERS: tuple[dict[str, Any], ...] = (
    {**LEARNED, "normalization": "LayerNorm", "activation": "gelu_tanh", "add_bias_linear": True},
    {**GEMMA, **WINDOWS},
    {**GEMMA, **WINDOWS, "qk_layernorm": True, "window_rotary_base": 100.0},
    {
        **SOFTMAX,
        **WINDOWS,
        **{"softmax_type": "learnable", "activation": "clamped_swiglu", "add_bias_linear": True},
    },
)
"""What one family alone has."""


def models() -> Iterator[ModelConfig]:
    for mlp, *values in product(MLPS, *OPTIONS.values()):
        if not (mlp and (values[1] != "swiglu" or values[4] or values[0] == "LayerNorm")):
            yield ModelConfig.model_validate({**SIZES, **mlp, **dict(zip(OPTIONS, values, strict=True))})
    for other, untied in product(OTHERS, (False, True)):
        yield ModelConfig.model_validate({**SIZES, **other, "untie_embeddings_and_output_weights": untied})
    yield from (ModelConfig.model_validate({**SIZES, **each}) for each in OF_DEEPSEEK)


def expressed(family: Family) -> list[ModelConfig]:
    return [model for model in models() if not family.objections(model)]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_rules_of_a_family_cover_exactly_the_table(family: Family) -> None:
    for model in expressed(family):
        moved = sorted(plain_name(move.ours) for move in family.moves(model))
        assert moved == sorted(parameter.name for parameter in parameter_table(model))


def test_every_rule_is_used_by_a_model_that_some_family_expresses() -> None:
    assert all(expressed(family) for family in FAMILIES.values())
    rules = {rule.ours.replace("{}", "1") for family in FAMILIES.values() for rule in family.rules}
    moves = (move for family in FAMILIES.values() for model in expressed(family) for move in family.moves(model))
    assert rules <= {plain_name(move.ours) for move in moves}


class LaterModel(ModelConfig):
    """A model with an option that no family knows yet."""

    embedding_multiplier: float | None = None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_an_option_that_a_family_does_not_name_is_refused_unless_it_is_at_its_default(family: Family) -> None:
    sizes: dict[str, Any] = dict(SIZES)
    if "moe_router_score_function" in family.has:
        sizes |= {"num_moe_experts": 4, "moe_shared_expert_intermediate_size": 24}
    assert family.objections(LaterModel.model_validate({**sizes, **family.has})) == []
    changed = LaterModel.model_validate({**sizes, **family.has, "embedding_multiplier": 0.5})
    assert family.objections(changed) == ["model.embedding_multiplier is 0.5, the family has None"]
    named = replace(family, fields={**family.fields, "attention_scale": "embedding_multiplier"})
    assert named.objections(changed) == []


def test_a_parameter_without_a_rule_is_refused_by_name() -> None:
    lacking = replace(LLAMA, rules=tuple(rule for rule in LLAMA.rules if "fc2" not in rule.ours))
    model = ModelConfig.model_validate(SIZES)
    name = "decoder.layers.{}.mlp.linear_fc2.weight"
    assert lacking.objections(model) == [f"the family has no rule for {name}"]
    with pytest.raises(CheckpointError, match="The family llama has no rule for") as refused:
        list(lacking.moves(model))
    assert name in str(refused.value)


def test_the_output_layer_beside_a_tied_embedding_is_known_by_the_family_s_name_of_it() -> None:
    assert {name: family.outputs for name, family in FAMILIES.items()} == {
        **dict.fromkeys(FAMILIES, ("lm_head.weight",)),
        "internlm2": ("output.weight",),
    }
