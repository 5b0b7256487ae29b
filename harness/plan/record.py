"""A plan as plain numbers under stable names: what `harness plan --json` prints and the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.config.phase_settings import in_phase
from harness.config.schema import Config, EvaluationConfig
from harness.plan.axes import RANK_AXES
from harness.plan.channel_tokens import held_out_share
from harness.plan.choices import LayoutChoice, pipeline_bubble
from harness.plan.demand import ChannelDemand, demands, repetition_notes
from harness.plan.flops import CONVENTION, flops_per_token_full_attention, hardware_flops_per_token
from harness.plan.gpus import Gpu
from harness.plan.memory import GIB, OMITTED, heaviest_rank
from harness.plan.parameters import count_parameters
from harness.plan.plan import PhasePlan, Plan
from harness.plan.stage_shares import stage_shares

ASSUMED_MFU_PCT = 40
"""Share of the peak that the estimate of time assumes; dense models on one to many nodes reach 35 to 60."""
_SECONDS_PER_DAY = 86400


def plan_record(config: Config, plan: Plan, gpu: Gpu | None, mfu_pct: float | None = None) -> dict[str, Any]:
    """Return all derived numbers of a run; with a GPU also whether it fits and, in bf16, how long it takes.

    `mfu_pct` is the share of the GPU's peak that the run reaches; by default `ASSUMED_MFU_PCT`.
    """
    wanted = demands(config, plan)
    return {
        "run": config.run.name,
        "model": model_record(config),
        "layout": _layout_record(config, [phase for phase in plan.phases if _is_of(plan, phase)]),
        "phases": [_phase_record(config, plan, phase) for phase in plan.phases],
        "channels": [_channel_record(demand) for demand in wanted],
        "notes": [*repetition_notes(wanted), *_idle_notes(plan), *_held_out_notes(config)],
        "train_steps": plan.train_steps,
        "train_tokens": plan.train_tokens,
        "flops_convention": CONVENTION,
        "memory": _memory_record(config, plan, gpu),
        "time": _time_record(plan, gpu, mfu_pct) if gpu and config.precision.dtype == "bf16" else None,
    }


def model_record(config: Config) -> dict[str, Any]:
    """Return the size of the model; it does not depend on the layout."""
    count = count_parameters(config.model)
    return {
        "num_parameters": count.total,
        "num_parameters_padded": count.padded_total,
        "embedding": count.embedding,
        "per_layer": count.per_layer,
        "attention_per_layer": count.attention_per_layer,
        "mlp_per_layer": count.mlp_per_layer,
        "experts_per_layer": count.experts_per_layer,
        "num_expert_layers": count.num_expert_layers,
        "num_active_parameters": count.active,
        "output": count.output,
        "mtp": count.mtp,
        "num_layers": count.num_layers,
        "vocab_size": config.model.vocab_size,
        "padded_vocab_size": config.model.padded_vocab_size,
    }


def choice_record(choice: LayoutChoice) -> dict[str, Any]:
    """Return one legal layout with its memory."""
    return {
        **choice.layout.sizes(RANK_AXES),
        "sequence_parallel": choice.sequence_parallel,
        "recompute": choice.recompute,
        "memory_gib": round(choice.memory.total_bytes / GIB, 2),
        "fits": choice.fits,
        "bubble_pct": round(100 * choice.bubble, 1),
    }


def learning_rate_curve(phase: PhasePlan, num_points: int) -> list[tuple[int, float]]:
    """Return up to `num_points` (step within the phase, learning rate), evenly spaced, the last step included."""
    num_steps = phase.train_steps
    steps = sorted({max(1, round(num_steps * point / num_points)) for point in range(1, num_points + 1)})
    return _learning_rates(phase, steps)


def learning_rate_landmarks(phase: PhasePlan) -> list[tuple[int, float]]:
    """Return (step within the phase, learning rate) of the first step, the end of warm-up, quarters and the end."""
    num_steps = phase.train_steps
    quarters = (num_steps // 4, num_steps // 2, num_steps * 3 // 4)
    steps = sorted({step for step in (1, phase.schedule.warmup_steps, *quarters, num_steps) if step >= 1})
    return _learning_rates(phase, steps)


def _learning_rates(phase: PhasePlan, steps: list[int]) -> list[tuple[int, float]]:
    return [(step, phase.learning_rate(phase.first_step - 1 + step)) for step in steps]


def _is_of(plan: Plan, phase: PhasePlan) -> bool:
    return (phase.layout, phase.layers_per_stage) == (plan.layout, plan.layers_per_stage)


def _layout_record(config: Config, phases: Sequence[PhasePlan]) -> dict[str, Any]:
    """Return the layout that these phases share."""
    layout = phases[0].layout
    shares = stage_shares([in_phase(config, phase.index) for phase in phases], layout)
    return {
        "world_size": layout.world_size,
        **layout.sizes(),
        "layers_per_stage": [list(chunk) for chunk in phases[0].layers_per_stage],
        "stages": [asdict(share) for share in shares],
    }


def _phase_record(config: Config, plan: Plan, phase: PhasePlan) -> dict[str, Any]:
    own = in_phase(config, phase.index)
    own_layout = config.phases[phase.index].parallel is not None
    return {
        "name": phase.name,
        "first_step": phase.first_step,
        "train_steps": phase.train_steps,
        "train_tokens": phase.train_tokens,
        "seq_length": phase.seq_length,
        "global_batch_size": phase.global_batch_size,
        "batch_sizes": [
            {"step": stage.first_step, "value": stage.size}
            for stage in phase.batch_sizes.stages
            if stage.first_step <= phase.train_steps
        ],
        "tokens_per_step": phase.tokens_per_step,
        "num_microbatches": phase.num_microbatches,
        "layout": _layout_record(config, [phase]) if own_layout else None,
        "bubble_pct": round(100 * pipeline_bubble(phase.layout, phase.num_microbatches), 1),
        "rotary_base": own.model.rotary_base,
        "frozen_parameters": list(config.phases[phase.index].frozen_parameters),
        "channels": {
            name: {"share": float(share), "train_tokens": int(share * phase.train_tokens)}
            for name, share in phase.shares.items()
        },
        "learning_rate": [{"step": step, "value": value} for step, value in learning_rate_landmarks(phase)],
        "flops_per_token": phase.flops_per_token,
        "flops_per_token_full_attention": flops_per_token_full_attention(config.model, phase.seq_length),
        "hardware_flops_per_token": hardware_flops_per_token(own, phase.seq_length),
    }


def _channel_record(demand: ChannelDemand) -> dict[str, Any]:
    epochs = demand.epochs
    return {
        "name": demand.channel,
        "train_tokens": demand.train_tokens,
        "tokens_by_phase": list(demand.tokens_by_phase),
        "available_tokens": demand.available_tokens,
        "epochs": None if epochs is None else round(epochs, 4),
        "max_epochs": demand.max_epochs,
        "missing_tokens": demand.missing_tokens,
        "waits_for_parts": demand.waits_for_parts,
    }


def _memory_record(config: Config, plan: Plan, gpu: Gpu | None) -> dict[str, Any]:
    estimates = (heaviest_rank(in_phase(config, phase.index), phase.layout) for phase in plan.phases)
    memory = max(estimates, key=lambda estimate: estimate.total_bytes)
    return {
        **asdict(memory),
        "total_bytes": memory.total_bytes,
        "estimate_omits": OMITTED,
        "gpu_memory_gib": gpu.memory_gib if gpu else None,
        "fits": memory.fits(gpu.memory_gib) if gpu else None,
    }


def _idle_notes(plan: Plan) -> list[str]:
    """Return a note for each phase whose schedule ends exactly at 0, so that its last step changes nothing."""
    return [
        f"phase {phase.name}: the learning rate ends at 0, so its last step, {phase.last_step:,}, changes no weight "
        "(schedule.min_learning_rate_share)"
        for phase in plan.phases
        if phase.train_steps > 1 and phase.learning_rate(phase.last_step) == 0
    ]


def _held_out_notes(config: Config) -> list[str]:
    """Return a note if a share was chosen by which nothing is held out."""
    share = config.evaluation.held_out_share
    if share in (0, EvaluationConfig().held_out_share) or held_out_share(config):
        return []
    return [
        f"evaluation.held_out_share is {share:g}, but no phase evaluates, so a new run holds nothing out; give "
        "evaluation.every_steps"
    ]


def _time_record(plan: Plan, gpu: Gpu, mfu_pct: float | None) -> dict[str, Any]:
    assumed = ASSUMED_MFU_PCT if mfu_pct is None else mfu_pct
    flops_per_gpu_second = gpu.peak_flops * assumed / 100
    gpu_seconds = sum(map(_phase_flops, plan.phases)) / flops_per_gpu_second
    seconds = sum(_phase_flops(phase) / flops_per_gpu_second / phase.layout.world_size for phase in plan.phases)
    return {
        "gpu": gpu.label,
        "peak_flops": gpu.peak_flops,
        "assumed_mfu_pct": assumed,
        "mfu_is_given": mfu_pct is not None,
        "seconds": seconds,
        "days": seconds / _SECONDS_PER_DAY,
        "tokens_per_second_per_gpu": plan.train_tokens / gpu_seconds,
    }


def _phase_flops(phase: PhasePlan) -> int:
    return phase.flops_per_token * phase.train_tokens
