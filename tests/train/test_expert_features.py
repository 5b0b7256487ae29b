"""Every feature of experts trains, and ranks that share experts, and each of them, train it as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import expert_jobs
import pytest
from pool import Pool
from small_run import Grid, Steps, TakeSteps, small_config, steps_taker

NUM_STEPS = 3
EXPERTS: dict[str, Any] = {
    "model.num_layers": 2,
    "model.num_moe_experts": 8,
    "model.moe_ffn_hidden_size": 48,
    "model.init_method_std": 0.1,
    "model.moe_router_bias_update_rate": 0.05,
    "phases.schedule": {"warmup_steps": 1},
    "optimizer.learning_rate": 2e-3,
}
SOFTMAX = {
    "model.moe_router_score_function": "softmax",
    "model.moe_router_enable_expert_bias": False,
    "model.moe_router_bias_update_rate": 0.001,
}
BIASES = {**SOFTMAX, "model.add_bias_linear": True, "model.activation": "clamped_swiglu"}
SHARED = Grid(tp=2, dp=2, ep=4, etp=1, sequence_parallel=True)
DIVIDED = Grid(tp=2, etp=2, sequence_parallel=True)


@pytest.fixture(scope="module")
def take_steps(pool: Pool, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TakeSteps:
    return steps_taker(pool, corpus, tmp_path_factory.mktemp("features"), EXPERTS, NUM_STEPS)


def numbers(steps: Steps) -> list[float]:
    assert len(steps) == NUM_STEPS
    return [number for step in steps for number in step]


FEATURES: dict[str, dict[str, Any]] = {
    "every-second-layer": {"model.moe_layer_freq": 2},
    "one-expert-a-token": {"model.moe_router_topk": 1},
    "groups": {"model.moe_router_num_groups": 4, "model.moe_router_group_topk": 1},
    "scaled": {"model.moe_router_topk_scaling_factor": 2.5},
    "softmax": SOFTMAX,
    "softmax-over-all": {**SOFTMAX, "model.moe_router_pre_softmax": True},
    "auxiliary-loss": {
        **SOFTMAX,
        "model.moe_router_load_balancing_type": "aux_loss",
        "model.moe_aux_loss_coeff": 0.1,
    },
    "auxiliary-loss-beside-the-bias": {
        "model.moe_router_load_balancing_type": "seq_aux_loss",
        "model.moe_aux_loss_coeff": 0.1,
    },
    "z-loss": {"model.moe_z_loss_coeff": 0.1},
    "no-bias": {"model.moe_router_enable_expert_bias": False, "model.moe_router_bias_update_rate": 0.001},
    "shared-experts": {"model.moe_shared_expert_intermediate_size": 64},
    "gated-shared-experts": {
        "model.moe_shared_expert_intermediate_size": 64,
        "model.moe_shared_expert_gate": True,
    },
    "not-gated": {"model.activation": "squared_relu"},
    "norms-behind": {"model.norm_placement": "behind"},
    "biases": BIASES,
    "documents-apart": {"data.reset_at_document_borders": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_feature_trains_alike_on_ranks_that_share_experts(name: str, take_steps: TakeSteps) -> None:
    one, shared = take_steps(Grid(), FEATURES[name]), take_steps(SHARED, FEATURES[name])
    assert numbers(shared) == pytest.approx(numbers(one), rel=1e-5)
    assert one[-1][0] < one[0][0]
    plain = take_steps(Grid(), {})
    assert one[-1] != pytest.approx(plain[-1], rel=1e-5), "the feature makes no difference"


@pytest.mark.slow
def test_ranks_that_divide_experts_add_each_bias_once(take_steps: TakeSteps) -> None:
    divided = take_steps(DIVIDED, BIASES)
    assert numbers(divided) == pytest.approx(numbers(take_steps(Grid(), BIASES)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(), SHARED, DIVIDED], ids=["one-rank", "shared", "divided"])
def test_the_way_of_the_tokens_changes_nothing(grid: Grid, take_steps: TakeSteps) -> None:
    gathered = take_steps(grid, {"model.moe_token_dispatcher_type": "allgather"})
    assert numbers(gathered) == pytest.approx(numbers(take_steps(Grid(), {})), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("grid", [Grid(), SHARED], ids=["one-rank", "shared"])
def test_recomputing_experts_changes_nothing_and_counts_once(recompute: str, grid: Grid, take_steps: TakeSteps) -> None:
    """Biases move by counts of tokens: those of a forward pass that is done twice would be doubled."""
    assert take_steps(grid, {"parallel.recompute": recompute}) == take_steps(grid, {})


@pytest.mark.slow
def test_experts_in_bf16_stay_close_to_fp32(take_steps: TakeSteps) -> None:
    """Less close than without experts: a token between two of them goes to the other one, and biases follow."""
    exact = take_steps(Grid(), {})
    for grid in (Grid(), SHARED):
        found = take_steps(grid, {"precision.dtype": "bf16"})
        assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in exact], rel=3e-3)
        assert [norm for _, norm in found] == pytest.approx([norm for _, norm in exact], rel=5e-2)


@pytest.mark.parametrize("changes", [{}, {"parallel.recompute": "full"}], ids=["plain", "recomputed"])
def test_a_model_with_experts_is_let_go(changes: dict[str, Any], pool: Pool, corpus: Path, tmp_path: Path) -> None:
    """Its process groups have threads, and every job of these tests would leave some behind."""
    config = small_config(corpus, Grid(dp=2, ep=2), EXPERTS | changes)
    assert pool.run(expert_jobs.model_is_let_go, 2, config, tmp_path) == [True, True]
