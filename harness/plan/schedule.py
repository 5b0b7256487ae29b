"""The learning rate of every step, as one pure function of the schedule."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.config.batch_sizes import train_steps
from harness.config.phase_settings import in_phase
from harness.config.schema import Config, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class PhaseSchedule:
    """Steps and learning rates of one phase: `first_step … first_step + train_steps - 1`, counted from 1."""

    index: int
    """Number of the phase, from 0."""
    name: str
    first_step: int
    train_steps: int
    schedule: ScheduleConfig
    peak_learning_rate: float
    entry_learning_rate: float
    """Learning rate from which the warm-up sets out."""

    @property
    def last_step(self) -> int:
        """Last step of the phase, counted from the start of the run."""
        return self.first_step + self.train_steps - 1

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from the start of the run."""
        return learning_rate(
            self.schedule,
            self.peak_learning_rate,
            step - self.first_step + 1,
            self.train_steps,
            entry=self.entry_learning_rate,
        )


def phase_schedules(config: Config) -> tuple[PhaseSchedule, ...]:
    """Return steps and learning rates of all phases. They do not depend on the layout."""
    found: list[PhaseSchedule] = []
    for index, phase in enumerate(config.phases):
        before = found[-1] if found else None
        entry, peak = 0.0, in_phase(config, index).optimizer.learning_rate
        if phase.schedule.continues:
            assert before is not None, "a first phase that continues is refused by harness.config.validate"
            entry = before.learning_rate(before.last_step)
            peak = peak if phase.schedule.warmup_steps else entry
        num_steps = train_steps(phase)
        assert num_steps, "a phase without a length is refused by harness.config.validate"
        found.append(
            PhaseSchedule(
                index=index,
                name=phase.name,
                first_step=before.last_step + 1 if before else 1,
                train_steps=num_steps,
                schedule=phase.schedule,
                peak_learning_rate=peak,
                entry_learning_rate=entry,
            )
        )
    return tuple(found)


def phase_number(phases: Sequence[PhaseSchedule], step: int) -> int:
    """Return the number of the phase of a step; steps beyond the end belong to the last phase."""
    return max(0, bisect_right([phase.first_step for phase in phases], step) - 1)


def learning_rate(schedule: ScheduleConfig, peak: float, step: int, train_steps: int, *, entry: float = 0.0) -> float:
    """Return the learning rate that step `step` (1-based within its phase of `train_steps` steps) is made with.

    Warm-up leads linearly from `entry` to `peak`, which it reaches at step `warmup_steps`. `cosine`, `linear` and `wsd`
    then end exactly at `peak * min_learning_rate_share` in the last step; `inverse_square_root` is
    `peak * sqrt(warmup_steps / step)` and never falls below that minimum, but need not reach it. A share of 0 therefore
    makes a last step that changes no weight. Megatron-LM has the same values one step later: its scheduler moves after
    the update, so its first step has the learning rate 0, and its last one that of our last step but one.
    """
    if step < schedule.warmup_steps:
        return entry + (peak - entry) * (step / schedule.warmup_steps)
    if step == schedule.warmup_steps:
        return peak
    return peak * _share_of_peak(schedule, step, train_steps)


def _share_of_peak(schedule: ScheduleConfig, step: int, train_steps: int) -> float:
    """Return the learning rate of a step after warm-up, as a share of the peak."""
    minimum = schedule.min_learning_rate_share
    match schedule.style:
        case "constant":
            return 1.0
        case "inverse_square_root":
            return max(minimum, math.sqrt(max(schedule.warmup_steps, 1) / step))
        case "wsd":
            decay_steps = max(1, round(schedule.decay_share * train_steps))
            start, style = max(schedule.warmup_steps, train_steps - decay_steps), schedule.decay_style
            height = _fall(style, _progress(start, step, train_steps))
        case style:
            height = _fall(style, _progress(schedule.warmup_steps, step, train_steps))
    # Rounding may lift the sum a hair above 1, but the peak is never passed.
    return min(1.0, minimum + (1.0 - minimum) * height)


def _progress(start: int, step: int, end: int) -> float:
    """Return the position of `step` between `start` (0.0) and `end` (1.0)."""
    return min(max(0.0, (step - start) / max(1, end - start)), 1.0)


def _fall(style: Literal["cosine", "linear", "one_minus_sqrt"], progress: float) -> float:
    """Return the decay from 1 at progress 0 to exactly 0 at progress 1."""
    match style:
        case "cosine":
            return (1.0 + math.cos(math.pi * progress)) / 2.0
        case "linear":
            return 1.0 - progress
        case "one_minus_sqrt":
            return 1.0 - math.sqrt(progress)
