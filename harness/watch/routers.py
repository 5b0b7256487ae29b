"""Routers that collapse: most tokens of a layer go to the same few experts, step after step.

A collapsed router does not come back by itself, and the loss shows it late, as a model that learns more slowly. One
step says little: the first steps of a run are uneven, and so is a strange batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.config.model import ModelConfig

_DEAD_SHARE = 0.5
"""A layer has collapsed in a step if so many of its experts had no token,"""
_TAKEN_SHARE = 0.9
"""or if one expert computed so many of all tokens, and could have been spared some: it is none of two."""
_STEPS = 50
"""Steps in a row after which people are told."""


@dataclass(slots=True, kw_only=True)
class RouterState:
    """Layers that have collapsed."""

    steps: dict[int, int] = field(default_factory=dict)
    """Steps in a row, up to the last one, in which a layer had collapsed."""
    told: list[int] = field(default_factory=list)
    """Layers of which people were told."""


def watch_routers(state: RouterState, loads: Sequence[tuple[float, float]], model: ModelConfig) -> str | None:
    """Take the loads of a step (`StepRecord.experts_by_layer`), and return what people should be told, if anything is.

    A layer is told once, and again if it has come back in between.
    """
    numbers = [layer for layer, has_experts in enumerate(model.routed_layers) if has_experts]
    if model.num_moe_experts is None or len(loads) != len(numbers):
        return None
    newly: list[str] = []
    for layer, (max_load, dead_share) in zip(numbers, loads, strict=True):
        taken = max_load * model.moe_router_topk / model.num_moe_experts
        if not _has_collapsed(taken, dead_share, model.num_moe_experts // model.moe_router_topk):
            state.steps.pop(layer, None)
            state.told = [each for each in state.told if each != layer]
            continue
        state.steps[layer] = min(state.steps.get(layer, 0) + 1, _STEPS)
        if state.steps[layer] == _STEPS and layer not in state.told:
            state.told.append(layer)
            newly.append(f"layer {layer} ({dead_share:.0%} of its experts had no token, one had {taken:.0%} of all)")
    if not newly:
        return None
    return (
        f"routers have collapsed for {_STEPS} steps: {', '.join(newly)}. Balance the experts more strongly "
        "(moe_router_bias_update_rate, moe_aux_loss_coeff), from a checkpoint of before"
    )


def _has_collapsed(taken: float, dead_share: float, experts_per_chosen: int) -> bool:
    return dead_share >= _DEAD_SHARE or (taken >= _TAKEN_SHARE and experts_per_chosen > 2)
