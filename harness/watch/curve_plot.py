"""Draws curves with labelled events and verdicts, and what was rolled back in a lighter colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.picture import picture
from harness.watch.attempts import counted_and_rolled_back
from harness.watch.policy import Rollback
from harness.watch.rehearsal import Rehearsal
from harness.watch.score import Label
from harness.watch.verdict import Kind

_COLOURS: dict[Kind, str] = {
    "suspect": "tab:orange",
    "confirmed": "tab:red",
    "non-finite": "black",
    "drift": "tab:purple",
}
_PANEL_INCHES = (14.0, 3.2)


def draw(rehearsals: Mapping[str, Rehearsal], labels: Mapping[str, Sequence[Label]], path: Path) -> None:
    """Draw one panel per curve to a PNG.

    Raises:
        UsageError: The package matplotlib is not installed, or the file cannot be written.
    """
    width, height = _PANEL_INCHES
    with picture(path, len(rehearsals), (width, height * len(rehearsals))) as (_, panels):
        for (name, rehearsal), panel in zip(rehearsals.items(), panels, strict=True):
            _draw_curve(panel, name, rehearsal, labels.get(name, ()))


def _draw_curve(axis: Any, name: str, rehearsal: Rehearsal, labels: Sequence[Label]) -> None:  # noqa: ANN401
    """Draw a loss with grey bands for labelled events, marks for verdicts and lines for rollbacks."""
    _draw_lines(axis, rehearsal)
    for number, label in enumerate(labels):
        text = None if number else "labelled event"
        axis.axvspan(label.start, max(label.end, label.start + 1), color="0.8", zorder=0, label=text)
    for kind, colour in _COLOURS.items():
        steps = [verdict.start for verdict in rehearsal.verdicts if verdict.kind == kind]
        if steps:
            at = [0.97 if kind == "suspect" else 0.92] * len(steps)
            marks = axis.scatter(
                steps, at, s=18, marker="v", color=colour, label=kind, transform=axis.get_xaxis_transform()
            )
            marks.set_clip_on(False)
    _draw_actions(axis, rehearsal)
    axis.set_title(name, loc="left", fontsize=9)
    axis.set_xlabel("step")
    axis.ticklabel_format(axis="x", style="plain", useOffset=False)
    axis.locator_params(axis="x", integer=True)
    axis.set_ylabel("loss in nats")
    axis.set_ylim(*_limits(rehearsal.losses))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the panel, where no curve is


def _draw_lines(axis: Any, rehearsal: Rehearsal) -> None:  # noqa: ANN401
    """Draw what counts as one line, and every stretch that was rolled back as a lighter one that leaves it."""
    steps, losses = rehearsal.steps, rehearsal.losses
    counted, rolled_back = counted_and_rolled_back(steps)
    for number, stretch in enumerate(rolled_back):
        part = slice(stretch.start, stretch.stop)
        text = None if number else "rolled back"
        axis.plot(steps[part], losses[part], linewidth=1.2, color="tab:blue", alpha=0.45, label=text)
    text = "counts" if rolled_back else None
    axis.plot(
        [steps[place] for place in counted],
        [losses[place] for place in counted],
        linewidth=0.6,
        color="tab:blue",
        label=text,
    )


def _draw_actions(axis: Any, rehearsal: Rehearsal) -> None:  # noqa: ANN401
    """Draw a line at every step at which the watcher would have acted."""
    told: set[str] = set()
    for rehearsed in rehearsal.actions:
        is_rollback = isinstance(rehearsed.action, Rollback)
        text = "would roll back" if is_rollback else "would stop"
        label = None if text in told else text
        axis.axvline(
            rehearsed.step, color="tab:red", linewidth=0.8, linestyle="--" if is_rollback else ":", label=label
        )
        told.add(text)


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the loss axis, from all but the first, steep twentieth of a curve, with a margin."""
    finite = [loss for loss in losses[len(losses) // 20 :] if math.isfinite(loss)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.05 * (high - low) or 0.1
    return low - air, high + air
