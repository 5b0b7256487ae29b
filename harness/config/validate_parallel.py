"""Rules between the fields of a layout, and between them and the model: stages, and what is recomputed.

Those between a layout and a number of ranks are in `harness.plan.layout_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.nearest import nearest_multiples, one_of
from harness.config.parallel import ParallelConfig
from harness.config.problems import Location, Problem
from harness.config.schema import PhaseConfig, PrecisionConfig
from harness.text import listed

_ENDS = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
_ACCOUNTS = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
_LAYOUT = "pipeline_model_parallel_layout"
_HERE: Location = ("parallel",)


def parallel_problems(parallel: ParallelConfig, here: Location = _HERE) -> Iterator[Problem]:
    """Yield the problems between the fields of a layout."""
    if parallel.sequence_parallel and parallel.tensor_model_parallel_size == 1:
        yield Problem(
            (*here, "sequence_parallel"),
            "needs tensor_model_parallel_size greater than 1; set it, or leave sequence_parallel out",
        )
    yield from _stage_problems(parallel, here)
    yield from _recompute_problems(parallel, here)


def _stage_problems(parallel: ParallelConfig, here: Location) -> Iterator[Problem]:
    if parallel.pipeline_model_parallel_size == 1:
        needing = _given(parallel, (*_ENDS, *_ACCOUNTS, _LAYOUT))
        if (parallel.virtual_pipeline_model_parallel_size or 1) > 1:
            needing.append("virtual_pipeline_model_parallel_size")
        for name in needing:
            yield Problem((*here, name), "needs pipeline_model_parallel_size greater than 1; set it, or leave this out")
        return
    others = _given(parallel, _ENDS)
    for name in _given(parallel, _ACCOUNTS):
        if others:
            yield Problem((*here, name), f"cannot be combined with {listed(others)}; remove one of them")
    if parallel.pipeline_model_parallel_layout is not None:
        yield from _layout_problems(parallel, len(parallel.pipeline_model_parallel_layout), here)


def _layout_problems(parallel: ParallelConfig, num_stages: int, here: Location) -> Iterator[Problem]:
    place = (*here, _LAYOUT)
    if others := _given(parallel, (*_ENDS, *_ACCOUNTS)):
        yield Problem(place, f"says how many layers every stage has; remove it, or {listed(others)}")
    num_ranks, chunks = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    if num_stages % num_ranks:
        yield Problem(
            place,
            f"has {num_stages} stages, which is not a multiple of pipeline_model_parallel_size {num_ranks}; give "
            f"{one_of(nearest_multiples(num_ranks, num_stages))}",
        )
    elif chunks is not None and chunks != num_stages // num_ranks:
        yield Problem(
            place,
            f"has {num_stages} stages, {num_stages // num_ranks} on each of {num_ranks} ranks, but "
            f"virtual_pipeline_model_parallel_size is {chunks}; leave that out, or give {chunks * num_ranks} stages",
        )


def _recompute_problems(parallel: ParallelConfig, here: Location) -> Iterator[Problem]:
    granularity, spelled = parallel.recompute_granularity, parallel.recompute
    if None not in (granularity, spelled) and granularity != spelled:
        yield Problem(
            (*here, "recompute"),
            f"is another spelling of recompute_granularity, which says {granularity}, not {spelled}; remove it",
        )
        return
    wanted = {"recompute_modules": "selective", "recompute_method": "full", "recompute_num_layers": "full"}
    for name in _given(parallel, tuple(wanted)):
        if parallel.recomputation != wanted[name]:
            yield Problem(
                (*here, name), f"has no effect without recompute_granularity {wanted[name]}; give that, or remove this"
            )


def module_problems(
    model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, here: Location = _HERE
) -> Iterator[Problem]:
    """Yield the problems between a layout and the model: its layers, and modules that it does not have."""
    layout = parallel.pipeline_model_parallel_layout
    if layout is not None and (found := "".join(layout).count("t")) != model.num_layers:
        yield Problem((*here, _LAYOUT), f"has {found} layers (t), but num_layers is {model.num_layers}; give each one")
    if parallel.recompute_modules is None or parallel.recomputation != "selective":
        return
    reasons = _reasons_against(model, parallel.recomputed_modules)
    if precision.fp8 is not None:
        reasons["mlp"] = "is not recomputed alone with precision.fp8; remove it, or take recompute_granularity full"
    for index, name in enumerate(parallel.recompute_modules):
        if name in reasons:
            yield Problem((*here, "recompute_modules", index), f"{name} {reasons[name]}")


def _reasons_against(model: ModelConfig, modules: frozenset[str]) -> dict[str, str]:
    """Return what is wrong with each module that recomputes nothing in this model, or nothing beside the others."""
    reasons = {"mla_up_proj": "has no effect without multi_latent_attention; remove it"}
    if model.multi_latent_attention:
        alone = "is not recomputed alone with multi_latent_attention; remove it, or take recompute_granularity full"
        reasons |= dict.fromkeys(("mla_up_proj", "core_attn"), alone)
    has_dense, has_shared = not all(model.expert_layers), model.moe_shared_expert_intermediate_size is not None
    if model.norm_placement == "behind":
        reasons["layernorm"] = "has no effect with norm_placement behind: nothing keeps what such norms give; remove it"
    if not has_dense:
        reasons["mlp"] = "has no effect where every layer has experts; take moe"
    if model.num_moe_experts is None:
        without = "has no effect without num_moe_experts; remove it"
        reasons |= dict.fromkeys(("moe", "moe_act", "shared_experts"), without)
    elif not has_shared:
        reasons["shared_experts"] = "has no effect without moe_shared_expert_intermediate_size; remove it"
    if "moe" in modules:
        reasons |= dict.fromkeys(("moe_act", "shared_experts"), "has no effect beside moe, which is more; remove it")
    keeps_mlp = has_dense and "mlp" not in modules
    keeps_shared = has_shared and not modules & {"moe", "shared_experts"}
    if not (keeps_mlp or keeps_shared):
        reasons["mlp_act"] = (
            "has no effect: every activation of an MLP is recomputed with it, or there is none; remove it"
        )
    return reasons


def phase_parallel_problems(
    model: ModelConfig, phases: tuple[PhaseConfig, ...], precision: PrecisionConfig
) -> Iterator[Problem]:
    """Yield the same problems of the layouts that phases have of their own."""
    for index, phase in enumerate(phases):
        if phase.parallel is not None:
            here = ("phases", index, "parallel")
            yield from parallel_problems(phase.parallel, here)
            yield from module_problems(model, phase.parallel, precision, here)


def _given(parallel: ParallelConfig, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(parallel, name) not in (None, False)]
