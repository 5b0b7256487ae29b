"""Experts in Hugging Face's models: the tensors, and the keys of `config.json` that the families share.

Theirs: `gate [E, H]` chooses, each expert has `gate_proj`, `up_proj [F, H]` and `down_proj [H, F]` (E experts).
"""

from __future__ import annotations

from typing import Any

from checkpoint_tools.families.family import Derived, Fields, Rule
from checkpoint_tools.families.llama_like import LAYER, THEIR_LAYER
from checkpoint_tools.layout import EXPERTS, EXPERTS_GATE_UP, GATE_UP, UNCHANGED, Fusion
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

SOFTMAX = {
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_router_topk_scaling_factor": 1.0,
}
"""Fields of our model in families whose routers have a softmax and nothing else."""
NOT_SHARED = {"moe_shared_expert_intermediate_size": None, "moe_shared_expert_gate": False}
TRAINING_KEYS = ("router_aux_loss_coef", "output_router_logits", "router_jitter_noise")
"""Keys that act in training only."""
_COUNTS = ("num_experts", "num_local_experts")


def expert_rules(
    block: str = "mlp", gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> tuple[Rule, ...]:
    """Return the rules of router and experts, by the names of a family."""
    stem = f"{block}.experts.{{e}}"
    return (
        _rule("mlp.router.weight", f"{block}.gate.weight", built="mlp.gate.weight"),
        _rule(
            "mlp.experts.linear_fc1.weight",
            f"{stem}.{gate}.weight",
            f"{stem}.{up}.weight",
            fusion=EXPERTS_GATE_UP,
            built="mlp.experts.gate_up_proj",
        ),
        _rule(
            "mlp.experts.linear_fc2.weight",
            f"{stem}.{down}.weight",
            fusion=EXPERTS,
            built="mlp.experts.down_proj",
        ),
    )


def shared_rules(name: str) -> tuple[Rule, ...]:
    """Return the rules of the shared experts, by their name in the MLP."""
    return (
        _rule(
            "mlp.shared_experts.linear_fc1.weight",
            f"mlp.{name}.gate_proj.weight",
            f"mlp.{name}.up_proj.weight",
            fusion=GATE_UP,
        ),
        _rule("mlp.shared_experts.linear_fc2.weight", f"mlp.{name}.down_proj.weight"),
    )


SHARED_GATE = Rule(
    ours=f"{LAYER}mlp.shared_experts.gate_weight", theirs=(f"{THEIR_LAYER}mlp.shared_expert_gate.weight",)
)


def _rule(ours: str, *theirs: str, fusion: Fusion = UNCHANGED, built: str | None = None) -> Rule:
    return Rule(
        ours=LAYER + ours,
        theirs=tuple(THEIR_LAYER + name for name in theirs),
        fusion=fusion,
        built=None if built is None else THEIR_LAYER + built,
    )


def count(default: int, written: str = "num_experts") -> Derived:
    """Return the keys of the number of experts, for which transformers 5 and published files have different names."""

    def read(said: Fields) -> dict[str, Any]:
        counts = [said[key] for key in _COUNTS if key in said]
        if len(set(counts)) > 1:
            raise CheckpointError(f"{_COUNTS[1]}: {counts[1]}, but {_COUNTS[0]} is {counts[0]}")
        return {"num_moe_experts": counts[0] if counts else default}

    return Derived(
        keys=_COUNTS,
        fields=("num_moe_experts",),
        read=read,
        write=lambda model: {written: model.num_moe_experts},
    )


NORMALIZED = Derived(
    keys=("norm_topk_prob",),
    fields=("moe_router_pre_softmax",),
    read=lambda said: {"moe_router_pre_softmax": not said.get("norm_topk_prob", False)},
    write=lambda model: {"norm_topk_prob": not model.moe_router_pre_softmax},
)
"""Weights of a token's experts that add up to 1: a softmax over the chosen experts has them."""
SAME_WIDTH = Derived(
    keys=("intermediate_size",),
    fields=("ffn_hidden_size", "moe_ffn_hidden_size"),
    read=lambda said: {"ffn_hidden_size": _needed(said, "intermediate_size")},
    write=lambda model: {"intermediate_size": model.expert_width},
)
"""The width of experts in families without dense layers."""


def _needed(said: Fields, key: str) -> object:
    if key not in said:
        raise CheckpointError(f"{key}: missing, or null")
    return said[key]


def _read_sparse_layers(said: Fields) -> dict[str, Any]:
    num_layers, step = said.get("num_hidden_layers", 0), said.get("decoder_sparse_step", 1)
    dense = said.get("mlp_only_layers", [])
    if beyond := [layer for layer in dense if layer >= num_layers]:
        raise CheckpointError(f"mlp_only_layers: {beyond[0]} in it, but num_hidden_layers is {num_layers}")
    flags = [int(layer not in dense and (layer + 1) % step == 0) for layer in range(num_layers)]
    return {"moe_layer_freq": 1 if all(flags) else flags}


def _write_sparse_layers(model: ModelConfig) -> Fields:
    dense = [layer for layer, has_experts in enumerate(model.expert_layers) if not has_experts]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


SPARSE_LAYERS = Derived(
    keys=("decoder_sparse_step", "mlp_only_layers"),
    fields=("moe_layer_freq",),
    read=_read_sparse_layers,
    write=_write_sparse_layers,
)
"""Qwen's layers with experts: every n-th, less those that are named."""
