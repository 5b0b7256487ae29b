"""Rules between fields that hold on any number of ranks; those of the layout are in `harness.plan.layout_rules`.

Each rule gets sections that are valid by themselves, and yields every problem that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.config.model import ModelConfig
from harness.config.nearest import divisors, nearest_multiples, one_of
from harness.config.parallel import ParallelConfig
from harness.config.problems import Location, Problem
from harness.config.rope_scaling import OPTIONS, RopeScalingConfig
from harness.config.schema import (
    CheckpointConfig,
    DataConfig,
    OptimizerConfig,
    PhaseConfig,
    PrecisionConfig,
)
from harness.config.validate_attention import attention_problems, position_problems
from harness.config.validate_context import context_problems
from harness.config.validate_evaluation import held_out_problems, probe_problems
from harness.config.validate_experts import expert_problems
from harness.config.validate_further_tokens import further_token_phase_problems, further_token_problems
from harness.config.validate_latent import latent_precision_problems, latent_problems
from harness.config.validate_parallel import module_problems, parallel_problems, phase_parallel_problems
from harness.config.validate_phases import (
    blend_problems,
    changed_fields,
    frozen_problems,
    phase_problems,
    run_length_problems,
    stop_problems,
)
from harness.text import listed

_MOST_SHOWN = 32
"""Legal numbers that a message lists."""


def cross_field_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """Return all problems between the fields of the given sections (`dict(config)`, or those that could be read)."""
    return [
        problem
        for names, rule in _RULES
        if all(name in sections for name in names)
        for problem in rule(*(sections[name] for name in names))
    ]


def _head_problems(model: ModelConfig) -> Iterator[Problem]:
    heads, groups = model.num_attention_heads, model.query_groups
    if model.multi_latent_attention:
        return
    if model.kv_channels is None and model.hidden_size % heads:
        yield Problem(
            ("model", "hidden_size"),
            f"must be a multiple of num_attention_heads {heads}, given {model.hidden_size}; "
            f"take {one_of(nearest_multiples(heads, model.hidden_size))}, or give kv_channels (the size of one head)",
        )
    elif model.position_embedding_type == "rope":
        yield from _rotated_head_problems(model)
    if heads % groups:
        yield Problem(
            ("model", "num_query_groups"),
            f"must divide num_attention_heads {heads}, given {groups}; allowed: {listed(divisors(heads), _MOST_SHOWN)}",
        )


def _rotated_head_problems(model: ModelConfig) -> Iterator[Problem]:
    if model.head_size % 2:
        key = "kv_channels" if model.kv_channels else "hidden_size"
        yield Problem(
            ("model", key), f"makes the size of one head {model.head_size}, but rotary positions need an even one"
        )
    elif model.rotary_size % 2 or model.rotary_size == 0:
        yield Problem(
            ("model", "rotary_percent"),
            f"makes {model.rotary_size} of the {model.head_size} numbers of a head rotary, but they rotate in pairs",
        )


def _rope_problems(model: ModelConfig) -> Iterator[Problem]:
    if model.position_embedding_type != "rope":
        return
    yield from _scaling_problems(model.rope_scaling, model, ("model", "rope_scaling"))
    yield from _base_problems(model.rope_scaling, model.rotary_base, ("model", "rotary_base"))


def _norm_problems(model: ModelConfig) -> Iterator[Problem]:
    if model.qk_layernorm_over == "head" or model.multi_latent_attention:
        return
    here = ("model", "qk_layernorm_over")
    if not model.qk_layernorm:
        yield Problem(here, f"{model.qk_layernorm_over} has no effect without qk_layernorm; set that, or remove this")
    elif model.normalization != "RMSNorm":
        yield Problem(here, f"width needs normalization RMSNorm, given {model.normalization}; take head")


def _phase_rope_problems(model: ModelConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    for index, phase in enumerate(phases):
        yield from _scaling_problems(phase.rope_scaling, model, ("phases", index, "rope_scaling"))
        if phase.rope_scaling or phase.rotary_base:
            scaling, base = phase.rope_scaling or model.rope_scaling, phase.rotary_base or model.rotary_base
            yield from _base_problems(scaling, base, ("phases", index, "rotary_base"))


def _scaling_problems(scaling: RopeScalingConfig | None, model: ModelConfig, here: Location) -> Iterator[Problem]:
    if scaling is None:
        return
    if scaling.factor < 1:
        yield Problem((*here, "factor"), f"must be at least 1 (it stretches the context), given {scaling.factor}")
    if scaling.type == "ntk" and model.rotary_size == 2:
        yield Problem((*here, "type"), "ntk needs heads larger than 2; take linear")
    if scaling.type == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        yield Problem(
            (*here, "high_freq_factor"),
            f"must be greater than low_freq_factor {scaling.low_freq_factor}, given {scaling.high_freq_factor}",
        )
    if scaling.type == "yarn" and scaling.beta_slow > scaling.beta_fast:
        yield Problem(
            (*here, "beta_fast"), f"must be at least beta_slow {scaling.beta_slow}, given {scaling.beta_fast}"
        )
    of_others = {name for names in OPTIONS.values() for name in names} - {*OPTIONS[scaling.type]}
    for name in changed_fields(scaling, tuple(sorted(of_others))):
        owners = " and ".join(kind for kind, names in OPTIONS.items() if name in names)
        yield Problem((*here, name), f"has no effect with type {scaling.type}, only with {owners}; remove it")
    if scaling.type == "yarn" and scaling.attention_factor is not None:
        for name in changed_fields(scaling, ("mscale", "mscale_all_dim")):
            yield Problem((*here, name), "has no effect beside attention_factor; remove one of them")


def _base_problems(scaling: RopeScalingConfig | None, base: float, here: Location) -> Iterator[Problem]:
    if scaling is not None and scaling.type == "yarn" and base <= 1:
        yield Problem(here, f"must be greater than 1 with yarn, which asks how fast pairs turn; given {base}")


def _fp8_problems(
    model: ModelConfig, parallel: ParallelConfig, precision: PrecisionConfig, phases: tuple[PhaseConfig, ...]
) -> Iterator[Problem]:
    """Check what Transformer Engine's fp8 products take: bf16 around them, and shapes in multiples of 16 and 8."""
    if precision.fp8 is None:
        return
    if precision.dtype != "bf16":
        yield Problem(("precision", "fp8"), f"needs dtype bf16, given {precision.dtype}; set that, or leave fp8 out")
    own = [phase.parallel or parallel for phase in phases]
    tensor = math.lcm(*(each.tensor_model_parallel_size for each in own))
    if model.num_moe_experts is not None:
        yield Problem(("precision", "fp8"), "cannot be combined with model.num_moe_experts; leave it out")
    for key in ("hidden_size", "ffn_hidden_size"):
        if (size := getattr(model, key)) % (16 * tensor):
            yield Problem(
                ("model", key),
                f"must be a multiple of {16 * tensor} (16 a tensor-parallel rank) with precision.fp8, given {size}",
            )
    for index, (phase, each) in enumerate(zip(phases, own, strict=True)):
        split = each.context_parallel_size * (each.tensor_model_parallel_size if each.sequence_parallel else 1)
        if (tokens := each.micro_batch_size * phase.seq_length // split) % 8:
            yield Problem(
                ("phases", index, "seq_length"),
                f"gives a rank {tokens} tokens of a micro-batch; precision.fp8 takes multiples of 8",
            )


def _muon_problems(optimizer: OptimizerConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    if optimizer.kind == "muon":
        return
    names = tuple(name for name in OptimizerConfig.model_fields if name.startswith("muon_"))
    given: list[Location] = [("optimizer", name) for name in changed_fields(optimizer, names)]
    for index, phase in enumerate(phases):
        own = tuple(name for name in names if name in type(phase.optimizer).model_fields)
        given += [("phases", index, "optimizer", name) for name in changed_fields(phase.optimizer, own)]
    for place in given:
        yield Problem(place, f"has no effect with optimizer.kind {optimizer.kind}, only with muon; remove it")


def _skip_problems(data: DataConfig) -> Iterator[Problem]:
    for number, (start, stop) in enumerate(data.skip_windows):
        if stop < start:
            yield Problem(
                ("data", "skip_windows", number),
                f"must be [start, stop) with start at most stop, given [{start}, {stop}]; did you mean "
                f"[{stop}, {start}]?",
            )


def _snapshot_problems(checkpoint: CheckpointConfig) -> Iterator[Problem]:
    if checkpoint.snapshot_folder is None:
        return
    place: Location = ("checkpoint", "snapshot_folder")
    if not checkpoint.snapshot_folder.is_absolute():
        yield Problem(place, f"must be an absolute path, given {checkpoint.snapshot_folder}: each node has its own")
    if checkpoint.snapshot_every_steps is None:
        yield Problem(place, "names a folder for snapshots, but none are taken; give checkpoint.snapshot_every_steps")


_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("model",), _head_problems),
    (("model",), _rope_problems),
    (("model",), _norm_problems),
    (("model",), expert_problems),
    (("model",), latent_problems),
    (("model",), attention_problems),
    (("model", "precision"), further_token_problems),
    (("model", "phases"), further_token_phase_problems),
    (("model", "phases"), position_problems),
    (("model", "parallel", "data", "precision", "phases"), context_problems),
    (("parallel",), parallel_problems),
    (("model", "parallel", "precision"), module_problems),
    (("model", "parallel", "precision", "phases"), _fp8_problems),
    (("model", "precision"), latent_precision_problems),
    (("model", "phases"), _phase_rope_problems),
    (("model", "phases", "precision"), phase_parallel_problems),
    (("data", "phases"), blend_problems),
    (("phases",), phase_problems),
    (("phases",), run_length_problems),
    (("run", "phases"), stop_problems),
    (("model", "phases"), frozen_problems),
    (("optimizer", "phases"), _muon_problems),
    (("data",), _skip_problems),
    (("data", "evaluation"), held_out_problems),
    (("evaluation", "phases"), probe_problems),
    (("checkpoint",), _snapshot_problems),
)
