"""Plots three runs together: the losses of the channels that met dirt, and the held-out losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import matplotlib

from benchmarks.spike_scene import DIRTY, SHARES
from harness.run import metric_names as names
from harness.run.event_types import RolledBack
from harness.run.events import read_events
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records, whole_records

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the canvas is chosen first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

_COLOURS = {"clean": "0.78", "unwatched": "tab:red", "watched": "tab:blue"}
_WIDTHS = {"clean": 3.2, "unwatched": 0.9, "watched": 0.8}
"""The clean run is a band behind the watched one, which is to lie in it."""
_LEGEND = {
    "clean": "clean text",
    "unwatched": "dirty text, nobody watches",
    "watched": "dirty text, harness watch",
}
_DIRT = {"code": "garbled documents", "zh": "pages of line breaks"}
_ORDER = ("clean", "unwatched", "watched")
_INCHES = (11.0, 3.6)
_DOTS_PER_INCH = 80
_ROLLED_BACK_WIDTH, _ROLLED_BACK_ALPHA = 2.5, 0.4


def draw(runs: Mapping[str, RunDir], path: Path) -> None:
    """Plot one panel for each channel with dirt and one for the held-out loss of all channels, in nats, as a PNG.

    A dotted line marks the step at which a rollback was ordered, a dashed one the step it returned to.
    """
    figure, axes = plt.subplots(1, len(DIRTY) + 1, figsize=_INCHES, layout="constrained")
    for channel, axis in zip(DIRTY, axes, strict=False):
        for kind in _ORDER:
            _draw_channel(axis, _attempts(runs[kind]), channel, kind)
        for event in read_events(runs["watched"].events):
            if isinstance(event, RolledBack) and f"loss of {channel} " in event.reason:
                axis.axvline(event.from_step or 0, color=_COLOURS["watched"], linestyle=":", linewidth=0.9)
                axis.axvline(event.step, color=_COLOURS["watched"], linestyle="--", linewidth=0.9)
        axis.set_title(f"loss of {channel}: {_DIRT[channel]}", fontsize=9, loc="left")
        axis.set_ylabel("loss in nats", fontsize=8)
    for kind in _ORDER:
        steps, losses = _held_out(runs[kind])
        axes[-1].plot(steps, losses, color=_COLOURS[kind], linewidth=max(1.4, _WIDTHS[kind]))
    axes[-1].set_title("held-out loss, all channels", fontsize=9, loc="left")
    axes[-1].set_ylabel("held-out loss in nats", fontsize=8)
    axes[-1].set_ylim(top=sorted(losses)[-3])
    for axis in axes:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)
    plt.close(figure)


def _legend() -> list[Line2D]:
    """Return what every line means."""
    watched = _COLOURS["watched"]
    runs = [
        Line2D([], [], color=_COLOURS[kind], linewidth=max(1.4, _WIDTHS[kind]), label=_LEGEND[kind]) for kind in _ORDER
    ]
    return [
        *runs,
        Line2D([], [], color=watched, linewidth=_ROLLED_BACK_WIDTH, alpha=_ROLLED_BACK_ALPHA, label="rolled back"),
        Line2D([], [], color=watched, linestyle=":", linewidth=0.9, label="rollback ordered"),
        Line2D([], [], color=watched, linestyle="--", linewidth=0.9, label="step it returned to"),
    ]


def _draw_channel(axis: Axes, attempts: Sequence[Sequence[StepRecord]], channel: str, kind: str) -> None:
    """Plot the attempts that count as a line, and what was rolled back as a wide and lighter one."""
    colour, width = _COLOURS[kind], _WIDTHS[kind]
    taken_until = float("inf")
    for attempt in reversed(attempts):
        counted = [record for record in attempt if record.step < taken_until]
        axis.plot(*_losses(counted, channel), color=colour, linewidth=width)
        axis.plot(
            *_losses(attempt[len(counted) :], channel),
            color=colour,
            linewidth=_ROLLED_BACK_WIDTH,
            alpha=_ROLLED_BACK_ALPHA,
        )
        taken_until = min(taken_until, attempt[0].step)


def _losses(records: Sequence[StepRecord], channel: str) -> tuple[list[int], list[float]]:
    found = [(record.step, record.values[names.lm_loss_of(channel)]) for record in records]
    return [step for step, _ in found], [loss for _, loss in found]


def _held_out(run_dir: RunDir) -> tuple[list[int], list[float]]:
    """Return the held-out loss of all channels, weighted like the run's samples, at the evaluations that count."""
    steps: dict[int, float] = {}
    for record in read_records(run_dir.metrics):
        losses = {name: record.values.get(f"valid/lm_loss/{name}") for name in SHARES}
        if None not in losses.values():
            weighted = sum(SHARES[name] * loss for name, loss in losses.items() if loss is not None)
            steps[record.step] = weighted / sum(SHARES.values())
    return list(steps), list(steps.values())


def _attempts(run_dir: RunDir) -> list[list[StepRecord]]:
    """Return the records of a run, attempt by attempt, those that were rolled back included."""
    return [list(attempt) for _, attempt in groupby(whole_records(run_dir.metrics), key=attrgetter("attempt"))]
