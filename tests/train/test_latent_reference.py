"""The curve of a model with latent attention is that of a plain loop over Hugging Face's DeepSeek, YaRN included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import worlds
from expert_reference import settings_of, train_experts
from latent_reference import hugging_face_deepseek
from pool import Pool
from small_run import small_config

NUM_STEPS = (15, pytest.param(50, marks=pytest.mark.thorough))
LATENT = {
    "model.kv_channels": None,
    "model.num_query_groups": None,
    "model.multi_latent_attention": True,
    "model.kv_lora_rank": 16,
    "model.qk_head_dim": 16,
    "model.qk_pos_emb_head_dim": 8,
    "model.v_head_dim": 12,
    "model.qk_layernorm": True,
    "model.norm_epsilon": 1e-6,
    "model.moe_layer_freq": "[0]+[1]*3",
    "model.moe_shared_expert_intermediate_size": 96,
    "model.moe_router_num_groups": 4,
}
V3 = {
    **LATENT,
    "model.q_lora_rank": 24,
    "model.moe_router_group_topk": 1,
    "model.moe_router_topk_scaling_factor": 2.5,
    "model.moe_router_bias_update_rate": 0.01,
    "model.rope_scaling": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 8,
        "mscale": 0.5,
        "mscale_all_dim": 1.0,
    },
}
V2 = {
    **LATENT,
    "model.moe_router_score_function": "softmax",
    "model.moe_router_pre_softmax": True,
    "model.moe_router_enable_expert_bias": False,
    "model.moe_router_topk": 3,
    "model.moe_router_group_topk": 2,
    "model.moe_router_group_scores": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {"deepseek-v3-with-yarn": V3, "deepseek-v2-without-latent-of-queries": V2}


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", NUM_STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_latents_equal_a_plain_loop(family: str, num_steps: int, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = small_config(corpus, changes=settings_of(FAMILIES[family]))
    weights = pool.run(worlds.initial_weights, 1, config)[0]
    found = pool.run(worlds.steps, 1, config, tmp_path, num_steps)[0]
    plain = train_experts(hugging_face_deepseek(config.model, weights), config, num_steps)
    assert [loss for loss, _ in found] == pytest.approx([step["loss"] for step in plain], rel=1e-5)
    assert [norm for _, norm in found] == pytest.approx([step["grad_norm"] for step in plain], rel=1e-4)
