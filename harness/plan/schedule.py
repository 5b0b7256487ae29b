"""The learning rate of every step, as one pure function of the schedule."""

from __future__ import annotations

import math
from typing import Literal

from harness.config.schema import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, peak: float, step: int, train_steps: int, *, entry: float = 0.0) -> float:
    """Return the learning rate that step `step` (1-based within its phase of `train_steps` steps) is made with.

    Warm-up leads linearly from `entry` to `peak`, which it reaches at step `warmup_steps`. `cosine`, `linear` and `wsd`
    then end exactly at `peak * min_learning_rate_share` in the last step; `inverse_square_root` is
    `peak * sqrt(warmup_steps / step)` and never falls below that minimum, but need not reach it.
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
