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
    "moe_router_group_scores": None,
    "moe_router_topk_scaling_factor": 1.0,
}
"""Fields of our model in families whose routers have a softmax and nothing else."""
NOT_SHARED = {"moe_shared_expert_intermediate_size": None, "moe_shared_expert_gate": False}
TRAINING_KEYS = ("router_aux_loss_coef", "output_router_logits", "router_jitter_noise")
"""Keys that act in training only."""
SIGMOID = {
    "moe_router_score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "moe_router_pre_softmax": False,
}
"""Fields of our model in families whose routers have sigmoids and a bias."""
_SUMMED = 2
"""Scores of a group that DeepSeek-V3 and its kin add up."""
_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


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
        counts = {key: said[key] for key in _COUNTS if key in said}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key} {number}" for key, number in counts.items())
            raise CheckpointError(f"{next(iter(counts))}: two numbers of experts: {told}")
        return {"num_moe_experts": next(iter(counts.values()), default)}

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
ROUTER_BIAS = Rule(ours=f"{LAYER}mlp.router.expert_bias", theirs=(f"{THEIR_LAYER}mlp.gate.e_score_correction_bias",))


def _read_dense_first(said: Fields) -> dict[str, Any]:
    num_layers, num_dense = said.get("num_hidden_layers", 0), said.get("first_k_dense_replace", 0)
    if num_dense >= num_layers:
        raise CheckpointError(f"first_k_dense_replace: {num_dense} leaves no layer of {num_layers} with experts")
    return {"moe_layer_freq": 1 if num_dense == 0 else [0] * num_dense + [1] * (num_layers - num_dense)}


DENSE_FIRST = Derived(
    keys=("first_k_dense_replace",),
    fields=("moe_layer_freq",),
    read=_read_dense_first,
    write=lambda model: {"first_k_dense_replace": model.expert_layers.count(False)},
    objections=lambda model: (
        ["its dense layers are not the first ones"] if sorted(model.expert_layers) != list(model.expert_layers) else []
    ),
)
"""DeepSeek's layers with experts: all but the first few."""


def shared_experts(default: int) -> Derived:
    """Return the key of the number of shared experts, each of which is as wide as another."""

    def read(said: Fields) -> dict[str, Any]:
        number, width = said.get("n_shared_experts", default), said.get("moe_intermediate_size", 0)
        return {"moe_shared_expert_intermediate_size": number * width or None}

    def write(model: ModelConfig) -> Fields:
        return {"n_shared_experts": (model.moe_shared_expert_intermediate_size or 0) // model.expert_width}

    def objections(model: ModelConfig) -> list[str]:
        shared = model.moe_shared_expert_intermediate_size
        if shared is None:
            return ["it has no shared experts"]
        if shared % model.expert_width == 0:
            return []
        return [f"its shared experts are {shared} wide, not a multiple of {model.expert_width}"]

    return Derived(
        keys=("n_shared_experts",),
        fields=("moe_shared_expert_intermediate_size",),
        read=read,
        write=write,
        objections=objections,
    )


def groups() -> Derived:
    """Return the keys of groups of experts: those with the largest sum of their two best scores are chosen."""
    fields = ("moe_router_num_groups", "moe_router_group_topk", "moe_router_group_scores")

    def read(said: Fields) -> dict[str, Any]:
        number, chosen, topk = (said.get(key, 1) for key in ("n_group", "topk_group", "num_experts_per_tok"))
        if number == 1:
            return dict.fromkeys(fields)
        # Megatron's rule has as many scores as each group gives experts.
        scores = None if topk == _SUMMED * chosen else _SUMMED
        return dict(zip(fields, (number, chosen, scores), strict=True))

    def objections(model: ModelConfig) -> list[str]:
        chosen = model.moe_router_group_topk
        if chosen is None or (model.moe_router_group_scores or model.moe_router_topk // chosen) == _SUMMED:
            return []
        return [f"its groups are chosen by other numbers of scores than {_SUMMED}"]

    return Derived(
        keys=("n_group", "topk_group"),
        fields=fields,
        read=read,
        write=lambda model: {
            "n_group": model.moe_router_num_groups or 1,
            "topk_group": model.moe_router_group_topk or 1,
        },
        objections=objections,
    )
