"""Rules between the fields that describe experts and their router."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.nearest import nearest_divisors, one_of
from harness.config.problems import Location, Problem
from harness.config.validate_phases import changed_fields
from harness.text import listed

_MOST_SHOWN = 32
_OF_EXPERTS = tuple(name for name in ModelConfig.model_fields if name.startswith("moe_"))


def expert_problems(model: ModelConfig) -> Iterator[Problem]:
    """Yield the problems of a model's experts: their layers, their number, their router."""
    if model.num_moe_experts is None:
        for name in changed_fields(model, _OF_EXPERTS):
            yield Problem(_at(name), "has no effect without num_moe_experts; give that, or remove this")
        return
    if isinstance(model.moe_layer_freq, tuple) and len(model.moe_layer_freq) != model.num_layers:
        yield Problem(
            _at("moe_layer_freq"),
            f"has {len(model.moe_layer_freq)} entries for num_layers {model.num_layers}; give one for each layer",
        )
    elif not any(model.expert_layers):
        yield Problem(_at("moe_layer_freq"), "leaves no layer with experts; leave num_moe_experts out, or change it")
    if model.add_bias_linear and model.moe_shared_expert_intermediate_size is not None:
        yield Problem(
            _at("add_bias_linear"),
            "cannot be combined with moe_shared_expert_intermediate_size, as shared experts have no biases; set it to "
            "false",
        )
    if model.moe_shared_expert_gate and model.moe_shared_expert_intermediate_size is None:
        yield Problem(_at("moe_shared_expert_gate"), "needs moe_shared_expert_intermediate_size; give that")
    yield from _router_problems(model, model.num_moe_experts)
    yield from _group_problems(model, model.num_moe_experts)
    yield from _balance_problems(model)


def _router_problems(model: ModelConfig, num_experts: int) -> Iterator[Problem]:
    if model.moe_router_topk > num_experts:
        yield Problem(
            _at("moe_router_topk"), f"must be at most num_moe_experts {num_experts}, given {model.moe_router_topk}"
        )
    softmax = model.moe_router_score_function == "softmax"
    if model.moe_router_pre_softmax and not softmax:
        yield Problem(_at("moe_router_pre_softmax"), "has no effect with sigmoid, only with softmax; remove it")
    if softmax and not model.moe_router_pre_softmax and model.moe_router_topk == 1:
        yield Problem(
            _at("moe_router_pre_softmax"),
            "must be true with softmax and moe_router_topk 1: over one chosen expert, its weight would always be 1",
        )
    if softmax and model.moe_router_enable_expert_bias:
        yield Problem(
            _at("moe_router_enable_expert_bias"),
            "needs moe_router_score_function sigmoid, given softmax; set it to false, and balance with "
            "moe_router_load_balancing_type, or take sigmoid",
        )


def _group_problems(model: ModelConfig, num_experts: int) -> Iterator[Problem]:
    groups, chosen = model.moe_router_num_groups, model.moe_router_group_topk
    if groups is None or chosen is None:
        if (groups, chosen) != (None, None):
            given, missing = ("num_groups", "group_topk") if chosen is None else ("group_topk", "num_groups")
            yield Problem(_at(f"moe_router_{given}"), f"needs moe_router_{missing}; give both, or none of them")
        if model.moe_router_group_scores is not None:
            yield Problem(_at("moe_router_group_scores"), "has no effect without moe_router_num_groups; remove it")
        return
    if num_experts % groups:
        yield Problem(
            _at("moe_router_num_groups"),
            f"must divide num_moe_experts {num_experts}, given {groups}; take "
            f"{one_of(nearest_divisors(num_experts, groups))}",
        )
        return
    yield from _choice_problems(model, chosen, groups=groups, size=num_experts // groups)


def _choice_problems(model: ModelConfig, chosen: int, *, groups: int, size: int) -> Iterator[Problem]:
    """Check the choice of a token's groups, of `size` experts each, by the sums of some scores of each."""
    topk, scores = model.moe_router_topk, model.moe_router_group_scores
    legal = [each for each in range(1, groups + 1) if topk <= each * size and (scores or topk % each == 0)]
    if chosen not in legal:
        must_divide = "" if scores else f"divide moe_router_topk {topk}, "
        yield Problem(
            _at("moe_router_group_topk"),
            f"must {must_divide}be at most moe_router_num_groups {groups}, and leave enough experts to choose from; "
            f"given {chosen}, allowed: {listed(legal, _MOST_SHOWN) or 'none'}",
        )
    if scores is not None and scores > size:
        yield Problem(_at("moe_router_group_scores"), f"must be at most {size}, the experts of a group, given {scores}")


def _balance_problems(model: ModelConfig) -> Iterator[Problem]:
    kind, weight = model.moe_router_load_balancing_type, model.moe_aux_loss_coeff
    if kind == "none" and weight:
        yield Problem(
            _at("moe_aux_loss_coeff"),
            "has no effect with moe_router_load_balancing_type none; take aux_loss or seq_aux_loss, or remove this",
        )
    if kind != "none" and not weight:
        yield Problem(
            _at("moe_router_load_balancing_type"), f"{kind} needs moe_aux_loss_coeff greater than 0; give that"
        )
    if not model.moe_router_enable_expert_bias:
        for name in changed_fields(model, ("moe_router_bias_update_rate",)):
            yield Problem(_at(name), "has no effect without moe_router_enable_expert_bias; remove it")


def _at(name: str) -> Location:
    return ("model", name)
