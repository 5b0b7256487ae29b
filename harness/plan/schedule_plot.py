"""Draws a plan as a PNG."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.picture import picture
from harness.plan.plan import PhasePlan, Plan

_INCHES = (11.0, 8.0)
_POINTS_PER_PHASE = 400
_MOST_POINTS = 4000
"""Points of a curve over all phases: more than a picture has columns."""
_HEADROOM = 1.2
"""Height of a panel over its highest value: the names of the phases stand above all curves."""


_NAME_POINTS, _NAME_LINES = 10, 2
"""Height of a phase's name with the air around it, and the lines of names that the headroom has room for."""


def draw_plan(name: str, plan: Plan, path: Path) -> None:
    """Plot learning rate, tokens in a step, and tokens of every channel over the steps of the run.

    Raises:
        UsageError: The package matplotlib is not installed, or the file cannot be written.
    """
    with picture(path, 3, _INCHES, same_x=True) as (figure, panels):
        _draw_curve(
            panels[0],
            plan,
            "learning rate",
            [[phase.learning_rate(step) for step in _steps(phase, plan)] for phase in plan.phases],
        )
        _draw_curve(
            panels[1],
            plan,
            "tokens in a step",
            [
                [float(phase.batch_size(step) * phase.seq_length) for step in _steps(phase, plan)]
                for phase in plan.phases
            ],
        )
        _draw_channels(panels[2], plan)
        figure.suptitle(f"{name}: {plan.train_steps:,} steps, {plan.train_tokens:,} tokens")
        panels[2].set_xlabel("step")
        figure.draw_without_rendering()  # from here on a panel is as wide as it will be
        for panel in panels:
            _draw_borders(panel, plan)


def tokens_so_far(plan: Plan, channel: str, step: int) -> float:
    """Return the tokens of a channel that the first `step` steps train on, by the shares of the blends."""
    return _tokens_at(plan, channel, [step])[0]


def _tokens_at(plan: Plan, channel: str, steps: Sequence[int]) -> list[float]:
    """Return the tokens of a channel that have been trained on behind each of these rising steps."""
    found: list[float] = []
    before, left = 0.0, deque(steps)
    for phase in plan.phases:
        share = float(phase.shares.get(channel, 0))
        while left and (left[0] <= phase.last_step or phase is plan.phases[-1]):
            num_steps = max(0, min(phase.train_steps, left.popleft() - phase.first_step + 1))
            found.append(before + share * phase.batch_sizes.samples_in(num_steps) * phase.seq_length)
        before += share * phase.train_tokens
    return found


def _steps(phase: PhasePlan, plan: Plan) -> list[int]:
    """Return the steps of a phase that are drawn: all, or a limited number with the first and the last."""
    last = phase.train_steps - 1
    count = min(last, _POINTS_PER_PHASE, _MOST_POINTS // len(plan.phases))
    return sorted({phase.first_step + (last * point // count if count else 0) for point in range(count + 1)})


def _draw_curve(axis: Any, plan: Plan, label: str, values: list[list[float]]) -> None:  # noqa: ANN401 (matplotlib's)
    steps = [step for phase in plan.phases for step in _steps(phase, plan)]
    axis.plot(steps, [value for of_phase in values for value in of_phase], linewidth=1.2, drawstyle="steps-post")
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0, top=_HEADROOM * max(max(of_phase) for of_phase in values))


def _draw_channels(axis: Any, plan: Plan) -> None:  # noqa: ANN401
    steps = [0, *(step for phase in plan.phases for step in _steps(phase, plan))]
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.shares))
    axis.stackplot(steps, [_tokens_at(plan, name, steps) for name in names], labels=names)
    axis.set_ylabel("tokens trained on")
    axis.set_ylim(bottom=0, top=_HEADROOM * sum(tokens_so_far(plan, name, steps[-1]) for name in names))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the panel, where no label is


def _draw_borders(axis: Any, plan: Plan) -> None:  # noqa: ANN401
    """Draw where the phases begin, with their names side by side, or on further lines where phases are short."""
    ends = [float("-inf")] * _NAME_LINES
    for phase in plan.phases:
        axis.axvline(phase.first_step, color="0.6", linewidth=0.8, linestyle="--")
        name = axis.annotate(
            phase.name,
            (phase.first_step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -_NAME_POINTS),
            textcoords="offset points",
            fontsize=8,
        )
        box = name.get_window_extent()
        line = next((number for number, end in enumerate(ends) if end < box.x0), ends.index(min(ends)))
        name.set_position((3, -_NAME_POINTS * (line + 1)))
        ends[line] = box.x1
