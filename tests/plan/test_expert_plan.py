"""Experts in the plan: the ranks that hold them, their numbers, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.errors import UsageError
from harness.plan.flops import flops_per_token
from harness.plan.layouts import layout_problems, make_layout, smallest_world_size
from harness.plan.memory import estimate_memory
from harness.plan.parameters import count_parameters, stage_parameters
from harness.plan.plan import make_plan
from harness.plan.stages import layers_per_stage
from harness.trace.trace_text import trace_for_plan

MakeConfig = Callable[..., Config]
EXPERTS: dict[str, Any] = {
    "num_moe_experts": 8,
    "moe_layer_freq": "[0]+[1]*3",
    "moe_ffn_hidden_size": 24,
    "moe_router_topk": 2,
    "num_layers": 4,
}


def layout_of(**sizes: Any) -> dict[str, Any]:
    short = {
        "tp": "tensor_model_parallel_size",
        "pp": "pipeline_model_parallel_size",
        "ep": "expert_model_parallel_size",
        "etp": "expert_tensor_parallel_size",
        "dp": "data_parallel_size",
        "sp": "sequence_parallel",
    }
    return {short[name]: size for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("sizes", "fewest"),
    [
        ({"ep": 4}, 4),
        ({"tp": 2, "ep": 4, "etp": 1, "sp": True}, 4),
        ({"tp": 2, "ep": 4, "sp": True}, 8),
        ({"tp": 4, "ep": 2, "etp": 1, "sp": True}, 4),
        ({"pp": 2, "tp": 2, "ep": 8, "etp": 1, "sp": True}, 16),
        ({"ep": 4, "dp": 8}, 8),
    ],
)
def test_a_world_is_as_large_as_dense_layers_or_experts_need(
    make_config: MakeConfig, sizes: dict[str, Any], fewest: int
) -> None:
    config = make_config(model=EXPERTS, parallel=layout_of(**sizes))
    assert smallest_world_size(config) == fewest
    layout = make_layout(config, fewest)
    ranks_of_a_stage = fewest // layout.pipeline
    assert layout.expert * layout.expert_tensor * layout.expert_data == ranks_of_a_stage


@pytest.mark.parametrize(
    ("model", "sizes", "world_size", "text"),
    [
        (
            {},
            {"ep": 3},
            3,
            "num_moe_experts 8 is not divisible by expert_model_parallel_size 3: use 2 or 4",
        ),
        (
            {"moe_ffn_hidden_size": 20},
            {"etp": 8},
            8,
            "moe_ffn_hidden_size 20 is not divisible by expert_tensor_parallel_size 8: use 5 or 10",
        ),
        (
            {},
            {"tp": 2},
            2,
            "experts with tensor_model_parallel_size 2 need sequence_parallel: true, or every rank of the group would "
            "send the same tokens to them",
        ),
        (
            {},
            {"ep": 8},
            12,
            "12 ranks of a pipeline stage cannot hold whole copies of the experts, which take "
            "expert_model_parallel_size 8 x expert_tensor_parallel_size 1 = 8 ranks: use expert_model_parallel_size 4, "
            "or start 8 or 16 ranks",
        ),
        (
            {"num_moe_experts": None, "moe_layer_freq": 1, "moe_ffn_hidden_size": None},
            {"ep": 2},
            2,
            "expert_model_parallel_size 2 needs model.num_moe_experts: give that, or leave this out",
        ),
        (
            {"moe_shared_expert_intermediate_size": 7},
            {"tp": 2, "sp": True},
            2,
            "moe_shared_expert_intermediate_size 7 is not divisible by tensor_model_parallel_size 2: use 1",
        ),
    ],
)
def test_an_illegal_layout_of_experts_is_named_with_the_nearest_legal_one(
    make_config: MakeConfig, model: dict[str, Any], sizes: dict[str, Any], world_size: int, text: str
) -> None:
    changes = {**EXPERTS, **model}
    config = make_config(model=changes, parallel=layout_of(**sizes), phase={"global_batch_size": 24})
    assert text in layout_problems(config, world_size)


def test_the_active_parameters_are_those_of_the_chosen_experts(make_config: MakeConfig) -> None:
    model = make_config(model=EXPERTS).model
    count = count_parameters(model)
    of_expert = 3 * model.hidden_size * 24
    router = 8 * model.hidden_size
    assert count.experts_per_layer == router + 8 * of_expert
    assert count.total - count.active == 3 * 6 * of_expert
    assert count.num_expert_layers == 3


def test_flops_are_those_of_the_chosen_experts(make_config: MakeConfig) -> None:
    one, two = (make_config(model={**EXPERTS, "moe_router_topk": topk}).model for topk in (1, 2))
    of_expert = 3 * one.hidden_size * 24
    assert flops_per_token(two, 64) - flops_per_token(one, 64) == 6 * 3 * of_expert


def test_the_parameters_of_all_ranks_are_the_model(make_config: MakeConfig) -> None:
    sizes = {"pp": 2, "tp": 2, "ep": 4, "etp": 1, "sp": True}
    config = make_config(model=EXPERTS, parallel=layout_of(**sizes))
    layout = make_layout(config, 8)
    stages = stage_parameters(config.model, layout, layers_per_stage(config))
    assert sum(2 * stage.split + stage.replicated + 4 * stage.experts for stage in stages) == (
        count_parameters(config.model).padded_total
    )


def test_experts_on_more_ranks_take_less_memory_of_each(make_config: MakeConfig) -> None:
    def bytes_of(ep: int) -> tuple[int, int]:
        config = make_config(model=EXPERTS, parallel=layout_of(ep=ep))
        (estimate,) = estimate_memory(config, make_layout(config, 8))
        return estimate.weights_bytes + estimate.gradients_bytes, estimate.optimizer_bytes

    (one, state_of_one), (four, state_of_four) = bytes_of(1), bytes_of(4)
    of_experts = 3 * 8 * 3 * 1024 * 24  # layers, experts, projections
    assert one - four == 6 * of_experts * 3 // 4
    assert state_of_one == state_of_four  # shared out over all copies, whichever ranks hold them


def test_a_model_with_experts_is_not_traced(make_config: MakeConfig) -> None:
    config = make_config(model=EXPERTS)
    with pytest.raises(UsageError, match="a model with experts cannot be traced: .* Leave --trace out"):
        trace_for_plan(config, make_plan(config, 1))
