"""The curve of a model with experts is that of a plain loop over Hugging Face's, router losses and biases included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import worlds
from expert_reference import hugging_face_experts, settings_of, train_experts
from pool import Pool
from small_run import small_config

NUM_STEPS = (15, pytest.param(50, marks=pytest.mark.thorough))
QWEN3 = {
    "model.qk_layernorm": True,
    "model.moe_router_score_function": "softmax",
    "model.moe_router_enable_expert_bias": False,
}
LOSSES = {
    "model.moe_router_load_balancing_type": "seq_aux_loss",
    "model.moe_aux_loss_coeff": 0.05,
    "model.moe_z_loss_coeff": 0.01,
}
GLM4 = {
    "model.moe_layer_freq": "[0]+[1]*3",
    "model.moe_shared_expert_intermediate_size": 96,
    "model.moe_router_topk_scaling_factor": 2.5,
    "model.moe_router_num_groups": 4,
    "model.moe_router_group_topk": 1,
    "model.moe_router_bias_update_rate": 0.01,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3-moe": QWEN3,
    "qwen3-moe-with-router-losses": QWEN3 | LOSSES,
    "glm-4-moe-with-bias-and-groups": GLM4,
}


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", NUM_STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_equal_a_plain_loop(family: str, num_steps: int, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = small_config(corpus, changes=settings_of(FAMILIES[family]))
    weights = pool.run(worlds.initial_weights, 1, config)[0]
    found = pool.run(worlds.steps, 1, config, tmp_path, num_steps)[0]
    plain = train_experts(hugging_face_experts(config.model, weights), config, num_steps)
    assert [loss for loss, _ in found] == pytest.approx([step["loss"] for step in plain], rel=1e-5)
    assert [norm for _, norm in found] == pytest.approx([step["grad_norm"] for step in plain], rel=1e-4)
