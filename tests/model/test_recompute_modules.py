"""Each module that may be recomputed: it is computed again, less is kept, and gradients are the same to the bit."""

from __future__ import annotations

from typing import Any

import model_jobs
import numpy as np
import pytest
from model_samples import small_model_config
from pool import JobFailedError, Pool

from harness.config.schema import Config

LAYERS, TOKENS, HIDDEN, WIDTH, HEADS = 4, 2 * 8, 32, 64, 4
"""Of the small model; the width is that of MLPs, experts and shared experts alike."""
EXPERTS = {
    "num_moe_experts": 4,
    "moe_layer_freq": [0, 1, 1, 0],
    "moe_router_topk": 2,
    "moe_shared_expert_intermediate_size": WIDTH,
}
ROWS = 2 * TOKENS
"""Of experts: each token has two."""


def config_of(model: dict[str, Any], **parallel: Any) -> Config:
    return small_model_config({"dtype": "fp32"}, model={"num_layers": LAYERS, **model}, parallel=parallel)


def selective(*modules: str) -> dict[str, Any]:
    return {"recompute_granularity": "selective", "recompute_modules": list(modules)}


MODULES: list[tuple[str, dict[str, Any], list[str], int]] = [
    # module, model, the classes that are computed once more, numbers that are no longer kept
    ("layernorm", {}, [], LAYERS * 2 * TOKENS * HIDDEN),
    ("mlp_act", {}, [], LAYERS * TOKENS * WIDTH),
    ("mlp", {}, ["MLP"], LAYERS * TOKENS * 3 * WIDTH),
    ("mlp", {"add_bias_linear": True, "activation": "gelu"}, ["MLP"], LAYERS * TOKENS * 2 * WIDTH),
    ("core_attn", {}, ["LayerAttention"], LAYERS * TOKENS * HEADS),
    ("mlp", EXPERTS, ["MLP"], 2 * TOKENS * 3 * WIDTH),
    ("moe_act", EXPERTS, [], 2 * ROWS * 2 * WIDTH),
    ("moe", EXPERTS, ["MoELayer", "Router", "Experts", "SharedExpertMLP"], 2 * ROWS * (HIDDEN + 4 * WIDTH)),
    ("shared_experts", EXPERTS, ["SharedExpertMLP"], 2 * TOKENS * 3 * WIDTH),
    ("mlp_act", EXPERTS, [], 4 * TOKENS * WIDTH),
]


@pytest.mark.parametrize(
    ("module", "model", "again", "numbers"),
    MODULES,
    ids=[f"{number}-{case[0]}" for number, case in enumerate(MODULES)],
)
def test_a_module_is_computed_again_and_not_kept(
    module: str, model: dict[str, Any], again: list[str], numbers: int, pool: Pool
) -> None:
    (plain,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of(model))
    (found,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of(model, **selective(module)))
    saved = plain.pop("kept bytes") - found.pop("kept bytes")
    # A CPU keeps more within an activation. A few bytes stay: the kind of a mask, and flags of a router.
    assert 0.9 * 4 * numbers <= saved <= 2 * 4 * numbers
    assert {kind: found[kind] // plain[kind] for kind in again} == dict.fromkeys(again, 2)
    inside = {"Activation", "ColumnParallelLinear", "RowParallelLinear"}
    assert {kind for kind, count in plain.items() if found[kind] != count} <= {*again, *inside}


FULL = {"recompute_granularity": "full"}


@pytest.mark.parametrize(
    ("parallel", "num_again"),
    [
        (FULL, 4),
        ({**FULL, "recompute_method": "uniform", "recompute_num_layers": 2}, 4),
        ({**FULL, "recompute_method": "block"}, 1),
        ({**FULL, "recompute_method": "block", "recompute_num_layers": 3}, 3),
    ],
)
def test_layers_are_computed_again_and_not_kept(parallel: dict[str, Any], num_again: int, pool: Pool) -> None:
    (plain,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of({}))
    (found,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of({}, **parallel))
    assert found["Layer"] - plain["Layer"] == num_again
    of_layer = 4 * TOKENS * (3 * HIDDEN + 3 * HIDDEN + 3 * WIDTH)
    assert plain["kept bytes"] - found["kept bytes"] >= num_again * of_layer


def test_fewer_inputs_are_kept_where_layers_are_computed_again_together(pool: Pool) -> None:
    (each,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of({}, **FULL))
    (pairs,) = pool.run(model_jobs.recomputation_of_a_step, 1, config_of({}, **FULL, recompute_num_layers=2))
    assert each["kept bytes"] - pairs["kept bytes"] == 2 * 4 * TOKENS * HIDDEN


DENSE_WAYS = {
    "norms": selective("layernorm"),
    "activation": selective("mlp_act"),
    "attention": selective("core_attn"),
    "mlp": selective("mlp"),
    "all-of-them": selective("layernorm", "core_attn", "mlp"),
    "pairs": {**FULL, "recompute_num_layers": 2},
    "three-layers": {**FULL, "recompute_method": "block", "recompute_num_layers": 3},
}
EXPERT_WAYS = {
    "norms": selective("layernorm"),
    "activation-of-experts": selective("moe_act"),
    "activation-of-MLPs": selective("mlp_act"),
    "shared-experts": selective("shared_experts", "moe_act"),
    "experts": selective("moe"),
    "all-of-them": selective("layernorm", "core_attn", "mlp", "moe"),
    "pairs": DENSE_WAYS["pairs"],
    "three-layers": DENSE_WAYS["three-layers"],
}


def assert_same_gradients(model: dict[str, Any], parallel: dict[str, Any], way: dict[str, Any], pool: Pool) -> None:
    world_size = parallel.get("tensor_model_parallel_size", 1) * parallel.get("data_parallel_size", 1)
    plain = pool.run(model_jobs.gradient_sums, world_size, config_of(model, **parallel), False)
    again = pool.run(model_jobs.gradient_sums, world_size, config_of(model, **parallel, **way), False)
    for before, after in zip(plain, again, strict=True):
        assert before.keys() == after.keys()
        for name, sums in before.items():
            assert np.array_equal(after[name], sums), name
        assert any(np.abs(sums).max() > 0 for sums in before.values())


@pytest.mark.parametrize("way", DENSE_WAYS.values(), ids=DENSE_WAYS)
def test_gradients_are_the_same_to_the_last_bit(way: dict[str, Any], pool: Pool) -> None:
    assert_same_gradients({"add_bias_linear": True, "norm_placement": "around"}, {}, way, pool)


@pytest.mark.parametrize("name", ["all-of-them", "pairs"])
def test_gradients_are_the_same_on_tensor_parallel_ranks(name: str, pool: Pool) -> None:
    parallel = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    assert_same_gradients({}, parallel, DENSE_WAYS[name], pool)


@pytest.mark.parametrize("way", EXPERT_WAYS.values(), ids=EXPERT_WAYS)
def test_gradients_of_experts_are_the_same_to_the_last_bit(way: dict[str, Any], pool: Pool) -> None:
    assert_same_gradients({**EXPERTS, "moe_shared_expert_gate": True}, {}, way, pool)


def test_gradients_are_the_same_on_ranks_that_share_experts(pool: Pool) -> None:
    parallel = {"data_parallel_size": 2, "expert_model_parallel_size": 2}
    assert_same_gradients(EXPERTS, parallel, EXPERT_WAYS["all-of-them"], pool)


@pytest.mark.parametrize("name", ["all", "pairs", "all-of-them"])
def test_gradients_are_the_same_with_modules_of_further_tokens(name: str, pool: Pool) -> None:
    assert_same_gradients({"mtp_num_layers": 2}, {}, {**DENSE_WAYS, "all": FULL}[name], pool)


def test_norms_within_projections_are_refused_by_name(pool: Pool) -> None:
    text = (
        r"parallel\.recompute_modules: layernorm has no effect with Transformer Engine, whose projections normalize "
        r"what they read; remove it"
    )
    with pytest.raises(JobFailedError, match=text):
        pool.run(model_jobs.build_with_transformer_engine, 1, config_of({}, **selective("layernorm")))
