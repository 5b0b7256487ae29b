"""The course of a whole run as lines of text: learning rate and batch size over its steps, tokens by channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.plan.plan import PhasePlan, Plan

BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH = 72
_LEAST_WIDTH = 6
"""Columns that the shortest phase gets."""
_NUM_ROWS = 5

Row = tuple[str, str]


def sketch(values: Sequence[float]) -> str:
    """Draw numbers as one line of blocks, scaled to the largest."""
    return chart(values, 1)[0]


def chart(values: Sequence[float], num_rows: int) -> list[str]:
    """Draw numbers as lines of blocks, the top one first, scaled to the largest."""
    top = max(values) or 1.0
    heights = [round(value / top * num_rows * 8) for value in values]
    return [
        "".join(BLOCKS[min(8, max(0, height - 8 * row))] for height in heights) for row in reversed(range(num_rows))
    ]


def course_rows(plan: Plan) -> list[Row]:
    """Return learning rate and batch size over all steps, with the names of the phases below."""
    steps = [step for phase in plan.phases for step in _columns(phase, plan)]
    rates = [plan.learning_rate(step) for step in steps]
    tokens = [float(plan.batch_size(step) * plan.phase_of(step).seq_length) for step in steps]
    return [
        *_curve("learning rate", rates, f"{max(rates):.3g}", _NUM_ROWS),
        *_curve("batch in tokens", tokens, short(max(tokens)), 2),
        ("phase", "".join(_label(phase.name, len(_columns(phase, plan))) for phase in plan.phases)),
        ("from step", "".join(_label(f"{phase.first_step:,}", len(_columns(phase, plan))) for phase in plan.phases)),
    ]


def channel_rows(record: dict[str, Any]) -> list[Row]:
    """Return tokens by channel and phase, and the passes over each channel, as a table under one heading."""
    headings = [phase["name"] for phase in record["phases"]]
    table = [[*headings, "all phases", "there now", "epochs"]] + [
        [
            *(short(tokens) if tokens else "-" for tokens in channel["tokens_by_phase"]),
            short(channel["train_tokens"]),
            _known(channel["available_tokens"], short),
            _known(channel["epochs"], "{:.2f}".format)
            + (f" of {channel['max_epochs']}" if channel["max_epochs"] is not None else ""),
        ]
        for channel in record["channels"]
    ]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    labels = ["tokens", *(channel["name"] for channel in record["channels"])]
    return list(zip(labels, lines, strict=True))


def short(number: float) -> str:
    """Write a large number with a unit: 6.74B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _columns(phase: PhasePlan, plan: Plan) -> list[int]:
    """Return the steps of a phase that are drawn, evenly spaced, the last one included."""
    width = max(_LEAST_WIDTH, round(_WIDTH * phase.train_steps / plan.train_steps))
    return [phase.first_step - 1 + max(1, round(phase.train_steps * n / width)) for n in range(1, width + 1)]


def _curve(name: str, values: Sequence[float], top: str, num_rows: int) -> list[Row]:
    first, *others = chart(values, num_rows)
    return [(f"{name}, up to {top}", first), *(("", line) for line in others)]


def _label(text: str, width: int) -> str:
    """Return a text padded to a width, behind the mark of a border."""
    return f"│{text}"[:width].ljust(width)


def _known(value: float | None, write: Any) -> str:  # noqa: ANN401 (what writes a number)
    return "not known" if value is None else str(write(value))
