"""`config.json` of GLM-4-MoE and of DeepSeek: groups of experts, shared ones, latents."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint_tools.families.config_json import Admitted, admit, family_of, fields_for
from checkpoint_tools.families.registry import FAMILIES
from harness.config.rope_scaling import RopeScalingConfig
from harness.errors import CheckpointError


def glm(**changes: Any) -> Admitted:
    fields = {**GLM, **changes}
    return admit(fields, family_of(fields))


GLM = {
    **{"model_type": "glm4_moe", "vocab_size": 131, "hidden_size": 48, "intermediate_size": 40},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "moe_intermediate_size": 16},
    **{"n_routed_experts": 8, "num_experts_per_tok": 2, "head_dim": 16},
}


def test_the_layers_groups_and_shared_experts_of_glm() -> None:
    found = glm(first_k_dense_replace=2, n_group=4, topk_group=1, n_shared_experts=3).model
    assert found.moe_layer_freq == (0, 0, 1)
    assert (found.moe_router_num_groups, found.moe_router_group_topk) == (4, 1)
    assert found.moe_shared_expert_intermediate_size == 48
    assert (
        fields_for(found, FAMILIES["glm4_moe"], {}).items()
        >= {
            "first_k_dense_replace": 2,
            "n_group": 4,
            "topk_group": 1,
            "n_shared_experts": 3,
            "n_routed_experts": 8,
            "partial_rotary_factor": 0.5,
        }.items()
    )


def test_groups_by_two_scores_of_which_each_gives_other_numbers_of_experts() -> None:
    found = glm(n_group=4, topk_group=2).model
    assert (found.moe_router_group_topk, found.moe_router_group_scores) == (2, 2)
    written = fields_for(found, FAMILIES["glm4_moe"], {})
    assert (written["n_group"], written["topk_group"]) == (4, 2)


def deepseek(**changes: Any) -> Admitted:
    fields = {**DEEPSEEK, **changes}
    return admit(fields, family_of(fields))


DEEPSEEK = {
    **{"model_type": "deepseek_v3", "vocab_size": 131, "hidden_size": 48, "intermediate_size": 40},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 32},
    **{"scoring_func": "sigmoid", "topk_method": "noaux_tc", "seq_aux": True, "aux_loss_alpha": 0.001, "ep_size": 1},
    **{"moe_layer_freq": 1, "num_nextn_predict_layers": 1, "attention_bias": False, "pretraining_tp": 1},
}
"""V3's keys; those that it leaves to the class of transformers are left out."""
V2 = {
    **{"model_type": "deepseek_v2", "scoring_func": "softmax", "num_experts_per_tok": 6},
    **{"n_group": 8, "topk_group": 3, "num_nextn_predict_layers": 0},
}
THEIR_YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}


def test_latents_and_groups_of_deepseek() -> None:
    found = deepseek().model
    assert (found.q_lora_rank, found.kv_lora_rank) == (1536, 512)
    assert (found.qk_head_dim, found.qk_pos_emb_head_dim, found.v_head_dim) == (128, 64, 128)
    assert (found.moe_router_num_groups, found.moe_router_group_topk, found.moe_router_group_scores) == (8, 4, None)
    assert (found.moe_layer_freq, found.moe_router_topk_scaling_factor) == ((0, 0, 0, 1), 2.5)
    assert fields_for(found, FAMILIES["deepseek_v3"], {})["num_nextn_predict_layers"] == 0
    assert deepseek(q_lora_rank=None).model.q_lora_rank is None
    assert deepseek(q_lora_rank=None).fields["q_lora_rank"] is None
    of_v2 = deepseek(**V2, topk_method="group_limited_greedy", first_k_dense_replace=1).model
    assert (of_v2.moe_router_num_groups, of_v2.moe_router_group_topk, of_v2.moe_router_group_scores) == (8, 3, 1)
    written = fields_for(of_v2, FAMILIES["deepseek_v2"], {})
    assert (written["topk_method"], written["n_group"], written["topk_group"]) == ("group_limited_greedy", 8, 3)
    greedy = deepseek(**V2, topk_method="greedy").model
    assert greedy.moe_router_num_groups is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps: 1e-05, known is 1e-06"),
        ({"rope_interleave": False}, "rope_interleave: false, known is true"),
        ({"attention_bias": True}, "attention_bias: true, known is false"),
        ({"norm_topk_prob": False}, "norm_topk_prob: false, known is true"),
        ({"scoring_func": "softmax"}, "scoring_func: 'softmax', known is sigmoid"),
        ({"topk_method": "greedy"}, "topk_method: 'greedy', known is noaux_tc"),
        ({"moe_layer_freq": 2}, "moe_layer_freq: 2, known is 1"),
        ({"num_key_value_heads": 2}, "num_key_value_heads: num_query_groups must be num_attention_heads 4"),
        ({"head_dim": 48}, "head_dim: 48 beside qk_nope_head_dim 128 and qk_rope_head_dim 64, which make it 64"),
        ({"qk_head_dim": 64}, "qk_head_dim: 64 beside qk_nope_head_dim 128 and qk_rope_head_dim 64, which make it 192"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim: qk_pos_emb_head_dim must be even, given 7"),
        ({"q_lora_rank": "x"}, "q_lora_rank: 'x' is not a whole number"),
        (
            {"rope_scaling": {**THEIR_YARN, "mscale_all_dim": 1.0}},
            "mscale_all_dim: known is one that stands beside mscale, and without attention_factor",
        ),
        ({"index_topk": 2048}, "index_topk: not known, so it may change what the model computes"),
        ({**V2, "topk_method": "noaux_tc"}, "topk_method: 'noaux_tc', known are greedy and group_limited_greedy"),
        ({**V2, "topk_method": "greedy", "norm_topk_prob": True}, "norm_topk_prob: true, known is false"),
    ],
)
def test_what_deepseek_s_settings_cannot_mean_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        deepseek(**changes)
    assert problem in str(refused.value)


def test_yarn_of_deepseek_is_written_with_what_scores_need() -> None:
    both = {**THEIR_YARN, "mscale": 0.707, "mscale_all_dim": 0.5}
    found = deepseek(rope_scaling=both).model
    assert fields_for(found, FAMILIES["deepseek_v3"], {})["rope_scaling"].items() >= {
        ("mscale", 0.707),
        ("mscale_all_dim", 0.5),
    }
    lost = found.model_copy(
        update={"rope_scaling": RopeScalingConfig(type="yarn", factor=40, mscale=0, mscale_all_dim=1)}
    )
    assert FAMILIES["deepseek_v3"].objections(lost) == [
        "its rope_scaling has mscale_all_dim without mscale, which transformers does not read"
    ]


def test_the_rotated_share_is_read_wherever_it_stands() -> None:
    inside = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    assert glm().model.rotary_percent == 0.5
    assert glm(partial_rotary_factor=0.25).model.rotary_percent == 0.25
    assert glm(rope_parameters=inside).model.rotary_percent == 0.25
    assert glm(rope_parameters=inside).fields["rope_parameters"]["partial_rotary_factor"] == 0.25
    assert glm(rope_parameters=inside, partial_rotary_factor=0.25).passed_over == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"first_k_dense_replace": 3}, "first_k_dense_replace: 3 leaves no layer of 3 with experts"),
        ({"n_group": 8, "topk_group": 2}, "moe_router_group_scores must be at most 1, the experts of a group, given 2"),
        ({"num_experts": 4}, "num_experts: two numbers of experts: num_experts 4, n_routed_experts 8"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor: 1.5 is not a number from 0.001 to 1"),
        (
            {"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            "two of partial_rotary_factor: partial_rotary_factor 0.5, rope_parameters.partial_rotary_factor 0.25",
        ),
        ({"partial_rotary_factor": 0.2}, "rotary_percent makes 3 of the 16 numbers of a head rotary"),
        ({"norm_topk_prob": False}, "norm_topk_prob: false, known is true"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers: not known"),
    ],
)
def test_what_glm_s_settings_cannot_mean_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        glm(**changes)
    assert problem in str(refused.value)
