"""Rules between the fields of phases, and between phases and other sections, that hold on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.batch_sizes import batch_sizes, train_steps
from harness.config.model import ModelConfig
from harness.config.nearest import nearest_divisors, one_of
from harness.config.problems import Location, Problem, did_you_mean
from harness.config.schema import DataConfig, PhaseConfig, RunConfig, ScheduleConfig
from harness.config.section import Section
from harness.limits import MOST_PATTERNS, MOST_RISES, MOST_STEPS, MOST_TOKENS
from harness.parameters.names import matches_any
from harness.parameters.table import parameter_table

_MOST_COMPARED = 256
"""Names that a wrong pattern is compared with: those of further layers are alike."""
Phases = tuple[PhaseConfig, ...]


def blend_problems(data: DataConfig, phases: Phases) -> Iterator[Problem]:
    """Check that blends and evaluation sets name existing channels."""
    for index, phase in enumerate(phases):
        named: list[tuple[Location, str]] = [(("blend", name), name) for name in phase.blend]
        named += [(("evaluation", "channels", n), name) for n, name in enumerate(phase.evaluation.channels or ())]
        for place, name in named:
            if name not in data.channels:
                yield Problem(
                    ("phases", index, *place),
                    f"{'' if place[0] == 'blend' else name + ' '}is not a channel of data.channels"
                    f"{did_you_mean(name, data.channels)} (channels: {', '.join(data.channels)})",
                )


def phase_problems(phases: Phases) -> Iterator[Problem]:
    """Check that every phase has a unique name, one length, and a batch and a schedule that fit into it."""
    for index, phase in enumerate(phases):
        here: Location = ("phases", index)
        earlier = next((number for number in range(index) if phases[number].name == phase.name), None)
        if earlier is not None:
            yield Problem((*here, "name"), f"{phase.name} is the name of phase {earlier} already; choose another one")
        ramp_up = list(_ramp_up_problems(phase, (*here, "batch_ramp_up")))
        yield from ramp_up
        if phase.train_tokens is None and phase.train_steps is None:
            yield Problem(here, "has no length; give train_tokens or train_steps")
        elif phase.train_tokens is not None and phase.train_steps is not None:
            yield Problem((*here, "train_steps"), "is given as well as train_tokens; remove one of the two")
        elif not ramp_up:
            yield from _length_problems(phase, here)
            yield from _schedule_problems(phase.schedule, train_steps(phase), (*here, "schedule"))
        yield from _continuation_problems(phase, index)


def run_length_problems(phases: Phases) -> Iterator[Problem]:
    """Check that the steps and the tokens of all phases together can be counted; tells the phase that is too long."""
    if _steps_are_unknown(phases):
        return
    num_steps = num_tokens = 0
    for index, phase in enumerate(phases):
        steps = train_steps(phase)
        num_steps, num_tokens = num_steps + steps, num_tokens + batch_sizes(phase).samples_in(steps) * phase.seq_length
        key = "train_steps" if phase.train_tokens is None else "train_tokens"
        if num_steps > MOST_STEPS:
            text = f"makes {num_steps:,} steps of the run up to its end; a run has at most {MOST_STEPS:,}"
        elif num_tokens > MOST_TOKENS:
            text = f"makes {num_tokens:,} tokens of the run up to its end; a run has at most {MOST_TOKENS:,}"
        else:
            continue
        yield Problem(("phases", index, key), f"{text}; shorten the phase")
        return


def _steps_are_unknown(phases: Phases) -> bool:
    return any(list(_ramp_up_problems(phase, ())) for phase in phases)


def stop_problems(run: RunConfig, phases: Phases) -> Iterator[Problem]:
    """Check that the step at which the run is to stop is one of its steps."""
    if _steps_are_unknown(phases):
        return
    lengths = [train_steps(phase) for phase in phases]
    if run.stop_at_step is not None and 0 not in lengths and run.stop_at_step > sum(lengths):
        yield Problem(
            ("run", "stop_at_step"), f"must be at most the run's {sum(lengths)} steps, given {run.stop_at_step}"
        )


def frozen_problems(model: ModelConfig, phases: Phases) -> Iterator[Problem]:
    """Every pattern of frozen parameters names some of them, and all together leave something to train."""
    is_needed = any(phase.frozen_parameters for phase in phases)
    names = [parameter.name for parameter in parameter_table(model)] if is_needed else []
    if (num_patterns := sum(len(phase.frozen_parameters) for phase in phases)) > MOST_PATTERNS:
        text = f"{num_patterns:,} patterns of frozen parameters in all phases; at most {MOST_PATTERNS}: take wider ones"
        yield Problem(("phases",), text)
        return
    for index, phase in enumerate(phases):
        here: Location = ("phases", index, "frozen_parameters")
        for number, pattern in enumerate(phase.frozen_parameters):
            if not any(matches_any(name, (pattern,)) for name in names):
                yield Problem(
                    (*here, number),
                    f"{pattern} matches no parameter{did_you_mean(pattern, names[:_MOST_COMPARED])}; "
                    "names are such as embedding.*, decoder.layers.0.self_attention.linear_qkv.weight, *layernorm*",
                )
        if names and all(matches_any(name, phase.frozen_parameters) for name in names):
            yield Problem(here, "names all parameters, and nothing would be trained; remove a pattern")


def changed_fields(section: Section, names: tuple[str, ...]) -> list[str]:
    """Return which of the named fields differ from their default; a dumped configuration gives every default."""
    fields = type(section).model_fields
    return [name for name in names if getattr(section, name) != fields[name].default]


def _ramp_up_problems(phase: PhaseConfig, here: Location) -> Iterator[Problem]:
    ramp, size = phase.batch_ramp_up, phase.global_batch_size
    if ramp is None:
        return
    if ramp.start >= size:
        yield Problem((*here, "start"), f"must be smaller than global_batch_size {size}, given {ramp.start}")
    elif rest := (size - ramp.start) % ramp.increment:
        below, above = size - rest, size - rest + ramp.increment
        sizes = f"{below} or {above}" if below > ramp.start else f"{above}"
        yield Problem(
            (*here, "increment"),
            f"must divide global_batch_size - start = {size - ramp.start}, given {ramp.increment}; take "
            f"{one_of(nearest_divisors(size - ramp.start, ramp.increment))}, or a global_batch_size of {sizes}",
        )
    elif (rises := (size - ramp.start) // ramp.increment) > MOST_RISES:
        yield Problem(
            (*here, "increment"),
            f"makes {rises:,} increases from start {ramp.start} to global_batch_size {size}; at most {MOST_RISES:,} "
            f"are allowed: take at least {-(-(size - ramp.start) // MOST_RISES)}",
        )


def _length_problems(phase: PhaseConfig, here: Location) -> Iterator[Problem]:
    ramp = phase.batch_ramp_up
    num_samples = batch_sizes(phase).samples_in(train_steps(phase))
    if ramp is not None and ramp.ramp_up_samples >= num_samples:
        yield Problem(
            (*here, "batch_ramp_up", "ramp_up_samples"),
            f"must be less than the phase's {num_samples} samples, given {ramp.ramp_up_samples}",
        )


def _schedule_problems(schedule: ScheduleConfig, num_steps: int, here: Location) -> Iterator[Problem]:
    warmup = schedule.warmup_steps
    if warmup > num_steps:
        yield Problem((*here, "warmup_steps"), f"must be at most the phase's {num_steps} steps, given {warmup}")
    elif schedule.style == "wsd":
        decay = max(1, round(schedule.decay_share * num_steps))
        if warmup + decay > num_steps:
            yield Problem(
                (*here, "decay_share"),
                f"makes {decay} steps of decay; with {warmup} of warm-up that is more than the phase's {num_steps}",
            )
    if schedule.style != "wsd":
        for name in changed_fields(schedule, ("decay_share", "decay_style")):
            yield Problem((*here, name), f"has no effect with style {schedule.style}, only with wsd; remove it")


def _continuation_problems(phase: PhaseConfig, index: int) -> Iterator[Problem]:
    if not phase.schedule.continues:
        return
    here: Location = ("phases", index)
    if index == 0:
        yield Problem((*here, "schedule", "continues"), "has nothing to continue in the first phase; remove it")
    elif phase.optimizer.learning_rate is not None and phase.schedule.warmup_steps == 0:
        yield Problem(
            (*here, "optimizer", "learning_rate"),
            "has no effect, because the schedule continues without a warm-up: the peak is the last learning rate of "
            f"the phase before; remove it, or give schedule.warmup_steps to go from there to "
            f"{phase.optimizer.learning_rate:g}",
        )
