"""Draws curves with labelled events and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.picture import picture
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
    axis.plot(rehearsal.steps, rehearsal.losses, linewidth=0.5, color="tab:blue")
    for label in labels:
        axis.axvspan(label.start, max(label.end, label.start + 1), color="0.8", zorder=0)
    for kind, colour in _COLOURS.items():
        steps = [verdict.start for verdict in rehearsal.verdicts if verdict.kind == kind]
        if steps:
            at = [0.97 if kind == "suspect" else 0.92] * len(steps)
            marks = axis.scatter(
                steps, at, s=18, marker="v", color=colour, label=kind, transform=axis.get_xaxis_transform()
            )
            marks.set_clip_on(False)
    for action in rehearsal.actions:
        axis.axvline(action.step, color="tab:red", linewidth=0.8, linestyle="--")
    axis.set_title(name, loc="left", fontsize=9)
    axis.set_ylabel("loss in nats")
    axis.set_ylim(*_limits(rehearsal.losses))
    if rehearsal.verdicts:
        axis.legend(fontsize=7, loc="upper right")


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the loss axis, from all but the first, steep twentieth of a curve, with a margin."""
    finite = [loss for loss in losses[len(losses) // 20 :] if math.isfinite(loss)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    air = 0.05 * (high - low) or 0.1
    return low - air, high + air
