"""MiniMind2 as its own code saves it: Llama under another name, or with experts and a shared one in every layer.

Without experts it is read here, and written as Llama. With them it is judged as a Qwen2-MoE: that one's gate of the
shared expert gives one half for zeros, and the output of the shared expert is doubled.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from checkpoint_tools.families.experts import expert_rules
from checkpoint_tools.families.family import Derived, Family, Fields, Judged, Piece, Rule
from checkpoint_tools.families.llama_like import FIELDS, HAS, LAYER, RULES, THEIR_LAYER
from checkpoint_tools.layout import GATE_UP, UNCHANGED
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.([0-9]+)\.(gate|up|down)_proj\.weight")
_SHARED = ".mlp.shared_experts.0."
_NONE = {
    "num_moe_experts": None,
    "moe_router_topk": 2,
    "moe_router_score_function": "sigmoid",
    "moe_router_pre_softmax": False,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": None,
}
"""Fields of our model without experts: the defaults."""


def _read(said: Fields) -> dict[str, Any]:
    if not said.get("use_moe", False):
        return dict(_NONE)
    if (shared := said.get("n_shared_experts", 1)) != 1:
        raise CheckpointError(f"n_shared_experts: {shared}, known is 1")
    topk = said.get("num_experts_per_tok", 2)
    return {
        "num_moe_experts": said.get("n_routed_experts", 4),
        "moe_router_topk": topk,
        "moe_router_score_function": "softmax",
        "moe_router_pre_softmax": topk == 1 or not said.get("norm_topk_prob", True),
        "moe_router_enable_expert_bias": False,
        "moe_shared_expert_intermediate_size": said.get("intermediate_size"),
    }


def _write(model: ModelConfig) -> Fields:
    if model.num_moe_experts is None:
        return {"use_moe": False}
    return {
        "use_moe": True,
        "n_routed_experts": model.num_moe_experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": model.moe_router_topk,
        "norm_topk_prob": not model.moe_router_pre_softmax,
        "scoring_func": "softmax",
    }


def _objections(model: ModelConfig) -> list[str]:
    if model.num_moe_experts is None:
        return []
    found = [] if model.moe_router_score_function == "softmax" else ["its router has a sigmoid, the family a softmax"]
    if model.expert_width != model.ffn_hidden_size:
        found.append(
            f"its experts are {model.expert_width} wide, the family has ffn_hidden_size {model.ffn_hidden_size}"
        )
    if model.moe_shared_expert_intermediate_size != model.expert_width:
        found.append(
            f"its shared experts are {model.moe_shared_expert_intermediate_size} wide, the family has one expert"
        )
    return found


EXPERTS = Derived(
    keys=("use_moe", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "norm_topk_prob"),
    fields=(*_NONE, "moe_ffn_hidden_size"),
    read=_read,
    write=_write,
    objections=_objections,
)


def _judged_as(model: ModelConfig) -> tuple[str, Fields]:
    return ("llama", {}) if model.num_moe_experts is None else ("qwen2_moe", {"qkv_bias": False})


def _judge(name: str, tensor: torch.Tensor, model: ModelConfig) -> Judged:
    """Return one tensor as those of a Llama, or of a Qwen2-MoE."""
    if found := _EXPERT.fullmatch(name):
        experts, number, kind = found.groups()
        whole = f"{experts}.{'down_proj' if kind == 'down' else 'gate_up_proj'}"
        rows = slice(None) if kind == "down" else slice(*_halves(tensor)[kind == "up"])
        return {whole: Piece(tensor, int(number), rows)}
    if _SHARED not in name:
        return {name: tensor}
    own = name.replace(_SHARED, ".mlp.shared_expert.")
    if not name.endswith("down_proj.weight"):
        return {own: tensor}
    return {
        own: 2 * tensor,
        f"{name.split(_SHARED)[0]}.mlp.shared_expert_gate.weight": tensor.new_zeros(1, tensor.size(0)),
    }


def _halves(tensor: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, tensor.size(0)), (tensor.size(0), 2 * tensor.size(0))


def _shared_rule(ours: str, *theirs: str) -> Rule:
    names = tuple(f"{THEIR_LAYER}mlp.shared_experts.0.{name}_proj.weight" for name in theirs)
    return Rule(
        ours=f"{LAYER}mlp.shared_experts.{ours}.weight",
        theirs=names,
        fusion=GATE_UP if len(names) > 1 else UNCHANGED,
    )


MINIMIND = Family(
    model_type="minimind",
    architecture="MiniMindForCausalLM",
    rules=(
        *RULES[:-2],
        *expert_rules(),
        _shared_rule("linear_fc1", "gate", "up"),
        _shared_rule("linear_fc2", "down"),
        *RULES[-2:],
    ),
    fields=FIELDS,
    derived=(EXPERTS,),
    has={
        **HAS,
        "moe_router_num_groups": None,
        "moe_router_group_topk": None,
        "moe_router_topk_scaling_factor": 1.0,
        "moe_shared_expert_gate": False,
        "moe_layer_freq": 1,
        "qk_layernorm": False,
        "add_qkv_bias": False,
        "add_bias_linear": False,
    },
    fixed={"hidden_act": ("silu",), "inference_rope_scaling": (False,), "scoring_func": ("softmax",)},
    # These act in training only.
    ignored=("aux_loss_alpha", "seq_aux", "dropout", "flash_attn"),
    defaults={"tie_word_embeddings": True, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_key_value_heads": 2},
    judge=_judge,
    judged_as=_judged_as,
    note=(
        "transformers does not know minimind: only MiniMind's own code loads this folder. Without experts, --family "
        "llama needs none of it."
    ),
)
