"""A plan as plain numbers under stable names: what `harness plan --json` prints and the report shows."""

from __future__ import annotations

from typing import Any

from harness.config.schema import Config
from harness.plan.choices import LayoutChoice, pipeline_bubble
from harness.plan.flops import CONVENTION, flops_per_token_full_attention, hardware_flops_per_token
from harness.plan.gpus import Gpu
from harness.plan.memory import GIB, OMITTED, heaviest_rank
from harness.plan.parameters import count_parameters
from harness.plan.plan import PhasePlan, Plan
from harness.plan.schedule import learning_rate

ASSUMED_MFU_PCT = 40
"""Share of the peak that the estimate of time assumes; dense models on one to many nodes reach 35 to 60."""
_SECONDS_PER_DAY = 86400


def plan_record(config: Config, plan: Plan, gpu: Gpu | None) -> dict[str, Any]:
    """Return all derived numbers of a run; with a GPU also whether it fits and, in bf16, how long it takes."""
    return {
        "run": config.run.name,
        "model": model_record(config),
        "layout": _layout_record(plan),
        "phases": [_phase_record(config, plan, index) for index in range(len(plan.phases))],
        "train_steps": plan.train_steps,
        "train_tokens": sum(phase.train_tokens for phase in plan.phases),
        "flops_convention": CONVENTION,
        "memory": _memory_record(config, plan, gpu),
        "time": _time_record(plan, gpu) if gpu and config.precision.dtype == "bf16" else None,
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
        "output": count.output,
        "num_layers": count.num_layers,
        "vocab_size": config.model.vocab_size,
        "padded_vocab_size": config.model.padded_vocab_size,
    }


def choice_record(choice: LayoutChoice) -> dict[str, Any]:
    """Return one legal layout with its memory."""
    return {
        "tensor_model_parallel_size": choice.layout.tensor,
        "pipeline_model_parallel_size": choice.layout.pipeline,
        "context_parallel_size": choice.layout.context,
        "data_parallel_size": choice.layout.data,
        "sequence_parallel": choice.sequence_parallel,
        "recompute": choice.recompute,
        "memory_gib": round(choice.memory.total_bytes / GIB, 2),
        "fits": choice.fits,
        "bubble_pct": round(100 * choice.bubble, 1),
    }


def learning_rate_curve(config: Config, phase_index: int, train_steps: int, num_points: int) -> list[tuple[int, float]]:
    """Return up to `num_points` (step within the phase, learning rate), evenly spaced, the last step included."""
    schedule = config.phases[phase_index].schedule
    steps = sorted({max(1, round(train_steps * point / num_points)) for point in range(1, num_points + 1)})
    peak = config.optimizer.learning_rate
    return [(step, learning_rate(schedule, peak, step, train_steps)) for step in steps]


def learning_rate_landmarks(config: Config, phase_index: int, train_steps: int) -> list[tuple[int, float]]:
    """Return (step within the phase, learning rate) of the first step, the end of warm-up, quarters and the end."""
    schedule = config.phases[phase_index].schedule
    quarters = (train_steps // 4, train_steps // 2, train_steps * 3 // 4)
    steps = sorted({step for step in (1, schedule.warmup_steps, *quarters, train_steps) if step >= 1})
    peak = config.optimizer.learning_rate
    return [(step, learning_rate(schedule, peak, step, train_steps)) for step in steps]


def _layout_record(plan: Plan) -> dict[str, Any]:
    return {
        "world_size": plan.layout.world_size,
        "tensor_model_parallel_size": plan.layout.tensor,
        "pipeline_model_parallel_size": plan.layout.pipeline,
        "virtual_pipeline_model_parallel_size": plan.layout.virtual_pipeline,
        "context_parallel_size": plan.layout.context,
        "data_parallel_size": plan.layout.data,
        "layers_per_stage": [list(chunk) for chunk in plan.layers_per_stage],
    }


def _phase_record(config: Config, plan: Plan, index: int) -> dict[str, Any]:
    phase = plan.phases[index]
    recompute = config.parallel.recompute
    return {
        "name": phase.name,
        "first_step": phase.first_step,
        "train_steps": phase.train_steps,
        "train_tokens": phase.train_tokens,
        "seq_length": phase.seq_length,
        "global_batch_size": phase.global_batch_size,
        "tokens_per_step": phase.tokens_per_step,
        "num_microbatches": phase.num_microbatches,
        "bubble_pct": round(100 * pipeline_bubble(plan.layout, phase.num_microbatches), 1),
        "channels": {
            name: {"share": float(share), "train_tokens": int(share * phase.train_tokens)}
            for name, share in phase.shares.items()
        },
        "learning_rate": [
            {"step": step, "value": value} for step, value in learning_rate_landmarks(config, index, phase.train_steps)
        ],
        "flops_per_token": phase.flops_per_token,
        "flops_per_token_full_attention": flops_per_token_full_attention(config.model, phase.seq_length),
        "hardware_flops_per_token": hardware_flops_per_token(config.model, phase.seq_length, recompute),
    }


def _memory_record(config: Config, plan: Plan, gpu: Gpu | None) -> dict[str, Any]:
    memory = heaviest_rank(config, plan.layout)
    return {
        "pipeline_rank": memory.pipeline_rank,
        "weights_bytes": memory.weights_bytes,
        "gradients_bytes": memory.gradients_bytes,
        "optimizer_bytes": memory.optimizer_bytes,
        "activations_bytes": memory.activations_bytes,
        "logits_bytes": memory.logits_bytes,
        "total_bytes": memory.total_bytes,
        "estimate_omits": OMITTED,
        "gpu_memory_gib": gpu.memory_gib if gpu else None,
        "fits": memory.fits(gpu.memory_gib) if gpu else None,
    }


def _time_record(plan: Plan, gpu: Gpu) -> dict[str, Any]:
    flops_per_second = plan.layout.world_size * gpu.peak_flops * ASSUMED_MFU_PCT / 100
    seconds = sum(_phase_flops(phase) for phase in plan.phases) / flops_per_second
    tokens = sum(phase.train_tokens for phase in plan.phases)
    return {
        "gpu": gpu.label,
        "peak_flops": gpu.peak_flops,
        "assumed_mfu_pct": ASSUMED_MFU_PCT,
        "seconds": seconds,
        "days": seconds / _SECONDS_PER_DAY,
        "tokens_per_second_per_gpu": tokens / seconds / plan.layout.world_size,
    }


def _phase_flops(phase: PhasePlan) -> int:
    return phase.flops_per_token * phase.train_tokens
