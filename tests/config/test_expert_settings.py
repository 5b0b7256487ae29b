"""The settings of experts: layers in every form that people give, and a sentence for what does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from harness.config.layer_flags import from_first_on
from harness.config.model import ModelConfig
from harness.config.validate_experts import expert_problems

DENSE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "ffn_hidden_size": 16,
    "vocab_size": 64,
}
EXPERTS = {**DENSE, "num_moe_experts": 8}


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (1, (1, 1, 1, 1)),
        (2, (1, 0, 1, 0)),
        ([0, 1, 1, 0], (0, 1, 1, 0)),
        ("[0]*1+[1]*3", (0, 1, 1, 1)),
        ("([0] + [1]*3)", (0, 1, 1, 1)),
        ("[1,0]*2", (1, 0, 1, 0)),
    ],
)
def test_layers_with_experts(given: object, layers: tuple[int, ...]) -> None:
    model = ModelConfig(**EXPERTS, moe_layer_freq=given)
    assert model.expert_layers == tuple(map(bool, layers))
    assert ModelConfig.model_validate(model.model_dump(mode="json")) == model


@pytest.mark.parametrize("given", [0, -1, 2.0, True, [0, 2], [[1]], "x", "[0]*", "__import__('os')", "[1]*99999"])
def test_no_layers_with_experts(given: object) -> None:
    with pytest.raises(ValidationError, match="must be a number from 1 on|stands for more than 2048 layers"):
        ModelConfig(**EXPERTS, moe_layer_freq=given)


def test_more_layers_than_a_model_has_are_not_made() -> None:
    with pytest.raises(ValidationError, match="stands for more than 2048 layers"):
        ModelConfig(**EXPERTS, moe_layer_freq="[0]*2000+[1]*2000")
    assert from_first_on(3, 7) == (True, False, False, True, False, False, True)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"moe_layer_freq": [1, 1]}, "moe_layer_freq has 2 entries for num_layers 4; give one for each layer"),
        ({"moe_layer_freq": [0, 0, 0, 0]}, "moe_layer_freq leaves no layer with experts"),
        (
            {"add_bias_linear": True, "moe_shared_expert_intermediate_size": 32},
            "add_bias_linear cannot be combined with moe_shared_expert_intermediate_size",
        ),
        ({"moe_shared_expert_gate": True}, "moe_shared_expert_gate needs moe_shared_expert_intermediate_size"),
        ({"moe_router_topk": 9}, "moe_router_topk must be at most num_moe_experts 8, given 9"),
        ({"moe_router_pre_softmax": True}, "moe_router_pre_softmax has no effect with sigmoid"),
        (
            {"moe_router_score_function": "softmax"},
            "moe_router_enable_expert_bias needs moe_router_score_function sigmoid, given softmax",
        ),
        (
            {"moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False, "moe_router_topk": 1},
            "moe_router_pre_softmax must be true with softmax and moe_router_topk 1",
        ),
        ({"moe_router_num_groups": 4}, "moe_router_num_groups needs moe_router_group_topk"),
        ({"moe_router_group_topk": 4}, "moe_router_group_topk needs moe_router_num_groups"),
        (
            {"moe_router_num_groups": 3, "moe_router_group_topk": 1},
            "moe_router_num_groups must divide num_moe_experts 8, given 3; take 2 or 4",
        ),
        (
            {"moe_router_num_groups": 4, "moe_router_group_topk": 3},
            "moe_router_group_topk must divide moe_router_topk 2, .* given 3, allowed: 1, 2",
        ),
        (
            {
                "moe_router_topk": 6,
                "moe_router_num_groups": 4,
                "moe_router_group_topk": 2,
                "moe_router_group_scores": 1,
            },
            "moe_router_group_topk must be at most moe_router_num_groups 4, .* given 2, allowed: 3, 4",
        ),
        (
            {"moe_router_num_groups": 4, "moe_router_group_topk": 1, "moe_router_group_scores": 3},
            "moe_router_group_scores must be at most 2, the experts of a group, given 3",
        ),
        ({"moe_router_group_scores": 1}, "moe_router_group_scores has no effect without moe_router_num_groups"),
        ({"moe_aux_loss_coeff": 0.1}, "moe_aux_loss_coeff has no effect with moe_router_load_balancing_type none"),
        ({"moe_router_load_balancing_type": "aux_loss"}, "aux_loss needs moe_aux_loss_coeff greater than 0"),
        (
            {"moe_router_enable_expert_bias": False, "moe_router_bias_update_rate": 0.1},
            "moe_router_bias_update_rate has no effect without moe_router_enable_expert_bias",
        ),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], text: str) -> None:
    (problem,) = expert_problems(ModelConfig(**{**EXPERTS, **changes}))
    assert re.search(text, f"{problem.location[-1]} {problem.text}"), problem


def test_a_dense_model_has_no_settings_of_experts() -> None:
    assert list(expert_problems(ModelConfig(**DENSE))) == []
    (problem,) = expert_problems(ModelConfig(**DENSE, moe_router_topk=4))
    assert problem.location == ("model", "moe_router_topk")
    assert "has no effect without num_moe_experts" in problem.text
