"""Rules between fields that hold on any number of ranks; those of the layout are in `harness.plan.layout_rules`.

Each rule sees whole sections that are right in themselves and yields every problem it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.config.problems import Location, Problem, did_you_mean
from harness.config.schema import (
    ChannelConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    ParallelConfig,
    PhaseConfig,
    PrecisionConfig,
    RopeScalingConfig,
    RunConfig,
    ScheduleConfig,
)

_MODEL: Location = ("model",)
_PARALLEL: Location = ("parallel",)


def cross_field_problems(sections: Mapping[str, Any]) -> list[Problem]:
    """All problems between the fields of the given sections (`dict(config)`, or those that could be read)."""
    return [
        problem
        for names, rule in _RULES
        if all(name in sections for name in names)
        for problem in rule(*(sections[name] for name in names))
    ]


def _head_problems(model: ModelConfig) -> Iterator[Problem]:
    heads, groups = model.num_attention_heads, model.query_groups
    if model.kv_channels is None and model.hidden_size % heads:
        yield Problem(
            (*_MODEL, "hidden_size"),
            f"must be a multiple of num_attention_heads {heads}, given {model.hidden_size}; "
            f"take {_nearest_multiples(heads, model.hidden_size)}, or give kv_channels (the size of one head)",
        )
    elif model.head_size % 2:
        key = "kv_channels" if model.kv_channels else "hidden_size"
        yield Problem(
            (*_MODEL, key), f"makes the size of one head {model.head_size}, but rotary positions need an even one"
        )
    if heads % groups:
        allowed = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
        yield Problem(
            (*_MODEL, "num_query_groups"),
            f"must divide num_attention_heads {heads}, given {groups}; allowed: {allowed}",
        )


def _rope_problems(model: ModelConfig) -> Iterator[Problem]:
    scaling = model.rope_scaling
    if scaling is None:
        return
    here = (*_MODEL, "rope_scaling")
    if scaling.factor < 1:
        yield Problem((*here, "factor"), f"must be at least 1 (it stretches the context), given {scaling.factor}")
    if scaling.type == "ntk" and model.head_size == 2:
        yield Problem((*here, "type"), "ntk needs heads larger than 2; take linear")
    if scaling.type == "llama3":
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            yield Problem(
                (*here, "high_freq_factor"),
                f"must be greater than low_freq_factor {scaling.low_freq_factor}, given {scaling.high_freq_factor}",
            )
        return
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    for name in _changed(scaling, names):
        yield Problem((*here, name), f"has no effect with type {scaling.type}, only with llama3; remove it")


def _parallel_problems(parallel: ParallelConfig) -> Iterator[Problem]:
    if parallel.sequence_parallel and parallel.tensor_model_parallel_size == 1:
        yield Problem(
            (*_PARALLEL, "sequence_parallel"),
            "needs tensor_model_parallel_size greater than 1; set it, or leave sequence_parallel out",
        )
    if parallel.pipeline_model_parallel_size > 1:
        return
    names = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
    needing = [name for name in names if getattr(parallel, name) is not None]
    if (parallel.virtual_pipeline_model_parallel_size or 1) > 1:
        needing.append("virtual_pipeline_model_parallel_size")
    for name in needing:
        yield Problem(
            (*_PARALLEL, name), "needs pipeline_model_parallel_size greater than 1; set it, or leave this out"
        )


def _context_problems(parallel: ParallelConfig, data: DataConfig, precision: PrecisionConfig) -> Iterator[Problem]:
    """Transformer Engine shares a sequence in its fused attention only: bf16, and causal over the whole sample."""
    size = parallel.context_parallel_size
    if size > 1 and data.reset_at_document_borders:
        yield Problem(
            ("data", "reset_at_document_borders"),
            f"cannot be combined with context_parallel_size {size}; set one of them back (false, or 1)",
        )
    if size > 1 and precision.dtype != "bf16":
        yield Problem(
            ("precision", "dtype"),
            f"must be bf16 with context_parallel_size {size}, given {precision.dtype}; or take context_parallel_size 1",
        )


def _blend_problems(data: DataConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    for index, phase in enumerate(phases):
        for name in phase.blend:
            if name not in data.channels:
                yield Problem(
                    ("phases", index, "blend", name),
                    f"is no channel of data.channels{did_you_mean(name, data.channels)}"
                    f" (channels: {', '.join(data.channels)})",
                )


def _phase_problems(phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    if len(phases) > 1:
        yield Problem(("phases", 1), f"one phase is supported in this version, given {len(phases)}; remove the others")
    for index, phase in enumerate(phases):
        here: Location = ("phases", index)
        if phase.train_tokens is None and phase.train_steps is None:
            yield Problem(here, "has no length; give train_tokens or train_steps")
        elif phase.train_tokens is not None and phase.train_steps is not None:
            yield Problem((*here, "train_steps"), "is given as well as train_tokens; remove one of the two")
        else:
            yield from _schedule_problems(phase.schedule, _train_steps(phase), (*here, "schedule"))


def _schedule_problems(schedule: ScheduleConfig, train_steps: int, here: Location) -> Iterator[Problem]:
    warmup = schedule.warmup_steps
    if warmup > train_steps:
        yield Problem((*here, "warmup_steps"), f"must be at most the phase's {train_steps} steps, given {warmup}")
    elif schedule.style == "wsd":
        decay = max(1, round(schedule.decay_share * train_steps))
        if warmup + decay > train_steps:
            yield Problem(
                (*here, "decay_share"),
                f"makes {decay} steps of decay; with {warmup} of warm-up that is more than the phase's {train_steps}",
            )
    if schedule.style != "wsd":
        for name in _changed(schedule, ("decay_share", "decay_style")):
            yield Problem((*here, name), f"has no effect with style {schedule.style}, only with wsd; remove it")


def _stop_problems(run: RunConfig, phases: tuple[PhaseConfig, ...]) -> Iterator[Problem]:
    lengths = [_train_steps(phase) for phase in phases]
    if run.stop_at_step is not None and 0 not in lengths and run.stop_at_step > sum(lengths):
        yield Problem(
            ("run", "stop_at_step"), f"must be at most the run's {sum(lengths)} steps, given {run.stop_at_step}"
        )


def _held_out_problems(data: DataConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    for name, channel in data.channels.items():
        if channel.validation_path == channel.path:
            yield Problem(
                ("data", "channels", name, "validation_path"),
                "is the channel's own path; held-out documents must not be trained on",
            )
    lacking = [name for name, channel in data.channels.items() if not _has_validation(channel)]
    if evaluation.every_steps is not None and evaluation.held_out_share == 0 and lacking:
        yield Problem(
            ("evaluation", "held_out_share"),
            f"is 0, so nothing is held out for {', '.join(lacking)}; raise it, or give each a validation_path",
        )


def _has_validation(channel: ChannelConfig) -> bool:
    return channel.validation_path is not None


def _train_steps(phase: PhaseConfig) -> int:
    """Length of a phase in steps (tokens rounded up to whole steps); 0 where none is given."""
    if phase.train_steps is not None:
        return phase.train_steps
    return -(-(phase.train_tokens or 0) // (phase.global_batch_size * phase.seq_length))


def _changed(section: RopeScalingConfig | ScheduleConfig, names: tuple[str, ...]) -> list[str]:
    """Those of the named fields that differ from their default (a dumped configuration gives every default)."""
    fields = type(section).model_fields
    return [name for name in names if getattr(section, name) != fields[name].default]


def _nearest_multiples(unit: int, given: int) -> str:
    below = given // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


_RULES: tuple[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]], ...] = (
    (("model",), _head_problems),
    (("model",), _rope_problems),
    (("parallel",), _parallel_problems),
    (("parallel", "data", "precision"), _context_problems),
    (("data", "phases"), _blend_problems),
    (("phases",), _phase_problems),
    (("run", "phases"), _stop_problems),
    (("data", "evaluation"), _held_out_problems),
)
