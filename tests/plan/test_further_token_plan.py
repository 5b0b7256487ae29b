"""Modules that predict further tokens in the plan: their numbers, their FLOPs, their place, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.model import ModelConfig
from harness.config.schema import Config
from harness.parameters.names import EMBEDDING
from harness.parameters.parameter import Cut
from harness.parameters.table import find_parameter, parameter_table
from harness.plan.flops import (
    flops_per_token,
    flops_per_token_full_attention,
    hardware_flops_per_token,
    stage_flops_per_token,
)
from harness.plan.layouts import layout_problems, make_layout
from harness.plan.memory import estimate_memory
from harness.plan.parameters import count_parameters, stage_parameters
from harness.plan.plan import make_plan
from harness.plan.plan_text import plan_text
from harness.plan.record import plan_record
from harness.plan.stages import layers_per_stage

MakeConfig = Callable[..., Config]
EXPERTS = {"num_moe_experts": 4, "moe_layer_freq": "[0]*1+[1]*3", "moe_ffn_hidden_size": 24, "num_layers": 4}


def in_module(model: ModelConfig, number: int) -> dict[str, tuple[int, ...]]:
    prefix = f"mtp.layers.{number}.transformer_layer."
    table = parameter_table(model)
    return {p.name.removeprefix(prefix): p.shape for p in table if p.name.startswith(prefix)}


@pytest.mark.parametrize("changes", [{}, EXPERTS], ids=["dense", "experts"])
def test_a_module_has_a_layer_like_the_last(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    model = make_config(model={"num_layers": 4, "mtp_num_layers": 2, **changes}).model
    of_last = {p.name.removeprefix("decoder.layers.3."): p.shape for p in parameter_table(model) if p.layer == 3}
    assert in_module(model, 0) == in_module(model, 1) == of_last
    projection = find_parameter("mtp.layers.1.eh_proj.weight", model)
    assert (projection.shape, projection.cut, projection.decays) == ((1024, 2048), Cut(dim=0), True)
    for name in ("enorm", "hnorm", "final_layernorm"):
        norm = find_parameter(f"mtp.layers.0.{name}.weight", model)
        assert (norm.shape, norm.cut, norm.decays, norm.initial.mean) == ((1024,), None, False, 1.0)
    assert find_parameter(EMBEDDING, model).ends == ("first", "last")
    fused = find_parameter("mtp.layers.0.transformer_layer.self_attention.linear_qkv.layer_norm_weight", model)
    assert fused.name == "mtp.layers.0.transformer_layer.input_layernorm.weight"


def test_the_numbers_of_a_module_are_counted(make_config: MakeConfig) -> None:
    plain, with_one, with_two = (make_config(model={"num_layers": 4, "mtp_num_layers": n}).model for n in (None, 1, 2))
    counts = [count_parameters(model) for model in (plain, with_one, with_two)]
    of_module = counts[0].per_layer + 2 * 1024 * 1024 + 3 * 1024
    assert [count.mtp for count in counts] == [0, of_module, 2 * of_module]
    assert [count.total - counts[0].total for count in counts] == [0, of_module, 2 * of_module]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_module_costs_a_layer_a_projection_and_an_output(make_config: MakeConfig, tied: bool) -> None:
    sizes = {"num_layers": 4, "untie_embeddings_and_output_weights": not tied}
    full = {"recompute": "full"}
    configs = [
        make_config(model={**sizes, **changes}, parallel=full)
        for changes in ({}, {"mtp_num_layers": 2}, {"num_layers": 6})
    ]
    plain, modules, deeper = (config.model for config in configs)
    further = 2 * 6 * (2 * 1024 * 1024 + 32000 * 1024)
    for flops in (flops_per_token, flops_per_token_full_attention):
        assert flops(modules, 2048) - flops(deeper, 2048) == further
    again = [hardware_flops_per_token(config, 2048) for config in configs[1:]]
    assert again[0] - again[1] == further + 2 * 2 * 2 * 1024 * 1024  # the projection is computed again
    stages = stage_flops_per_token(modules, 2048, ((2, 2),))
    assert sum(stages) == flops_per_token(modules, 2048)
    assert stages[0] == stage_flops_per_token(plain, 2048, ((2, 2),))[0]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_modules_and_a_replica_of_the_embedding_are_on_the_last_stage(make_config: MakeConfig, tied: bool) -> None:
    sizes = {"num_layers": 4, "untie_embeddings_and_output_weights": not tied}
    parallel = {"pipeline_model_parallel_size": 2, "tensor_model_parallel_size": 2}
    held = []
    for modules in (None, 1):
        config = make_config(model={**sizes, "mtp_num_layers": modules}, parallel=parallel)
        held.append(stage_parameters(config.model, make_layout(config, 4), layers_per_stage(config)))
    count = count_parameters(config.model)
    assert held[1][0] == held[0][0]
    more_split = held[1][1].split - held[0][1].split
    more_replicated = held[1][1].replicated - held[0][1].replicated
    embedding = 0 if tied else 32000 * 1024
    assert 2 * more_split + more_replicated == count.mtp + embedding
    alone = make_config(model={**sizes, "mtp_num_layers": 1})
    (whole,) = stage_parameters(alone.model, make_layout(alone, 1), layers_per_stage(alone))
    assert whole.total == count.total


def test_memory_of_the_last_stage_grows(make_config: MakeConfig) -> None:
    estimates = []
    for modules in (None, 1, 2):
        config = make_config(
            model={"num_layers": 4, "mtp_num_layers": modules}, parallel={"pipeline_model_parallel_size": 2}
        )
        estimates.append(estimate_memory(config, make_layout(config, 2)))
    assert len({estimate[0] for estimate in estimates}) == 1
    logits = [estimate[1].logits_bytes for estimate in estimates]
    assert logits == [logits[0], 2 * logits[0], 3 * logits[0]]
    activations = [estimate[1].activations_bytes for estimate in estimates]
    assert activations[1] - activations[0] == activations[2] - activations[1] > 0


def test_a_projection_must_be_divisible(make_config: MakeConfig) -> None:
    sizes = {"hidden_size": 1022, "kv_channels": 32, "mtp_num_layers": 1}
    config = make_config(model=sizes, parallel={"tensor_model_parallel_size": 4})
    assert "hidden_size 1022 is not divisible by tensor_model_parallel_size 4: use 2" in layout_problems(config, 4)
    without = make_config(model={**sizes, "mtp_num_layers": None}, parallel={"tensor_model_parallel_size": 4})
    assert layout_problems(without, 4) == []


def test_the_plan_names_them(make_config: MakeConfig) -> None:
    config = make_config(model={"num_layers": 4, "mtp_num_layers": 1})
    record = plan_record(config, make_plan(config, 1), None)
    assert record["model"]["mtp"] == count_parameters(config.model).mtp


def test_the_plan_says_where_they_are(make_config: MakeConfig) -> None:
    ends = {"num_layers_in_first_pipeline_stage": 3, "num_layers_in_last_pipeline_stage": 1}
    config = make_config(
        model={"num_layers": 4, "mtp_num_layers": 1}, parallel={"pipeline_model_parallel_size": 2, **ends}
    )
    text = " ".join(plan_text(config, make_plan(config, 2)).split())
    module = count_parameters(config.model).mtp
    assert f"further tokens {module:,} in 1 module behind the layers, on the last pipeline stage" in text
    assert "stage 0 embedding and layers 0-2: " in text
    assert "stage 1 loss, layer 3 and 1 module: " in text
