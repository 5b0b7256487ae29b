"""DeepSeek-V2 and V3 in Hugging Face's code, with the weights of ours."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from reference import Weights

from harness.config.model import ModelConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

_IN_LAYER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.linear_q_proj.weight": "self_attn.q_proj.weight",
    "self_attention.linear_q_down_proj.weight": "self_attn.q_a_proj.weight",
    "self_attention.q_layernorm.weight": "self_attn.q_a_layernorm.weight",
    "self_attention.linear_q_up_proj.weight": "self_attn.q_b_proj.weight",
    "self_attention.linear_kv_down_proj.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "self_attention.kv_layernorm.weight": "self_attn.kv_a_layernorm.weight",
    "self_attention.linear_kv_up_proj.weight": "self_attn.kv_b_proj.weight",
    "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
    "mlp.linear_fc2.weight": "mlp.down_proj.weight",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.experts.linear_fc1.weight": "mlp.experts.gate_up_proj",
    "mlp.experts.linear_fc2.weight": "mlp.experts.down_proj",
    "mlp.shared_experts.linear_fc2.weight": "mlp.shared_experts.down_proj.weight",
}
_GATE_AND_UP = {"mlp.linear_fc1.weight": "mlp", "mlp.shared_experts.linear_fc1.weight": "mlp.shared_experts"}
_OUTSIDE = {"decoder.final_layernorm.weight": "model.norm.weight"}


def hugging_face_deepseek(model: ModelConfig, weights: Weights) -> torch.nn.Module:
    """V2 if the router has a softmax, else V3."""
    assert model.norm_epsilon == 1e-6, "transformers has no other one for latents"
    shared = model.moe_shared_expert_intermediate_size or 0
    settings: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "moe_intermediate_size": model.expert_width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_attention_heads,
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_nope_head_dim": model.qk_head_dim,
        "qk_rope_head_dim": model.qk_pos_emb_head_dim,
        "v_head_dim": model.v_head_dim,
        "n_routed_experts": model.num_moe_experts,
        "n_shared_experts": shared // model.expert_width,
        "num_experts_per_tok": model.moe_router_topk,
        "first_k_dense_replace": model.expert_layers.index(True),
        "routed_scaling_factor": model.moe_router_topk_scaling_factor,
        "n_group": model.moe_router_num_groups,
        "topk_group": model.moe_router_group_topk,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "rope_parameters": _rotation(model),
        "max_position_embeddings": _longest(model),
        "attn_implementation": "eager",
        "experts_implementation": "eager",
    }
    reference: torch.nn.Module
    if model.moe_router_score_function == "softmax":
        reference = DeepseekV2ForCausalLM(DeepseekV2Config(**settings, topk_method="group_limited_greedy"))
    else:
        reference = DeepseekV3ForCausalLM(DeepseekV3Config(**settings))
    wrong = reference.load_state_dict(_renamed(model, weights), strict=False)
    missing = {name for name in wrong.missing_keys if not name.endswith("e_score_correction_bias")}
    tied = set() if model.untie_embeddings_and_output_weights else {"lm_head.weight"}
    assert (missing, wrong.unexpected_keys) == (tied, [])
    return reference


def _longest(model: ModelConfig) -> int:
    scaling = model.rope_scaling
    return 2048 if scaling is None else int(scaling.factor * scaling.original_max_position_embeddings)


def _rotation(model: ModelConfig) -> dict[str, Any]:
    scaling = model.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": model.rotary_base}
    return {
        "rope_type": "yarn",
        "rope_theta": model.rotary_base,
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }


def _renamed(model: ModelConfig, weights: Weights) -> dict[str, torch.Tensor]:
    found = {}
    for name, array in weights.items():
        tensor = torch.from_numpy(array)
        number, _, rest = name.removeprefix("decoder.layers.").partition(".")
        stem = f"model.layers.{number}"
        if name == "embedding.word_embeddings.weight":
            found["model.embed_tokens.weight"] = tensor[: model.vocab_size]
        elif name in _OUTSIDE:
            found[_OUTSIDE[name]] = tensor
        elif rest in _GATE_AND_UP:
            for key, part in zip(("gate", "up"), tensor.chunk(2), strict=True):
                found[f"{stem}.{_GATE_AND_UP[rest]}.{key}_proj.weight"] = part
        else:
            found[f"{stem}.{_IN_LAYER[rest]}"] = tensor
    return found
