"""MiniMind2 as its own code saves it: Llama under another name. It is read here, and written as Llama."""

from __future__ import annotations

from checkpoint_tools.families.family import Family
from checkpoint_tools.families.llama_like import FIELDS, HAS, RULES

_EXPERTS = (
    "num_experts_per_tok",
    "n_routed_experts",
    "n_shared_experts",
    "scoring_func",
    "aux_loss_alpha",
    "seq_aux",
    "norm_topk_prob",
)

MINIMIND = Family(
    model_type="minimind",
    architecture="MiniMindForCausalLM",
    rules=RULES,
    fields=FIELDS,
    has={**HAS, "qk_layernorm": False, "add_qkv_bias": False, "add_bias_linear": False},
    fixed={"hidden_act": ("silu",), "use_moe": (False,), "inference_rope_scaling": (False,)},
    # Without experts their settings mean nothing; dropout acts in training only.
    ignored=(*_EXPERTS, "dropout", "flash_attn"),
    defaults={"tie_word_embeddings": True, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 2},
    is_written=False,
    judge=lambda name, tensor, model: {name: tensor},
)
