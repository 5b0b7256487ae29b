"""A plain robust z, the strongest rule that a page of code gives: medians of the last values, nothing else.

Two variants. The short one takes the level as the median of the last 32 values, and the noise as the median distance
of the last 128 values from their levels. The one with a trend takes the median of the last 64 values, carries it on by
half a window where it falls, and takes the larger of two estimates of the noise over 256 values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from harness.watch.detector import LossRecord
from harness.watch.verdict import TOTAL, Verdict

Floats = NDArray[np.float64]

VARIANTS = ("short", "trend")
_NORMAL = 1.4826
_LEAST_SIGMA, _LEAST_NATS = 5e-4, 0.07
_CHUNK = 8192


def sizes(curve: Sequence[LossRecord], variant: str) -> tuple[Floats, Floats]:
    """Return for every record how many standard deviations, and how many nats, it is off what came before it."""
    losses = np.array([np.nan if record.loss is None else record.loss for record in curve])
    level, noise = _short(losses) if variant == "short" else _with_trend(losses)
    residual = losses - level
    return residual / np.maximum(noise, _LEAST_SIGMA), residual


def alarms(curve: Sequence[LossRecord], z: Floats, residual: Floats, threshold: float) -> list[Verdict]:
    """Return the alarms at a threshold: every one is a suspect of one step."""
    strange = np.nonzero((np.abs(z) >= threshold) & (np.abs(residual) >= _LEAST_NATS))[0]
    return [
        Verdict(
            kind="suspect",
            channel=TOTAL,
            direction="up" if residual[place] > 0 else "down",
            step=curve[place].step,
            start=curve[place].step,
            end=curve[place].step,
            z=float(z[place]),
            height=float(residual[place]),
        )
        for place in strange
    ]


def _short(losses: Floats) -> tuple[Floats, Floats]:
    level = _median_before(losses, 32)
    return level, _NORMAL * _median_before(np.abs(losses - level), 128)


def _with_trend(losses: Floats) -> tuple[Floats, Floats]:
    middle = _median_before(losses, 64)
    slope = np.full(len(losses), np.nan)
    slope[64:] = (middle[64:] - middle[:-64]) / 64
    level = middle + 32.5 * np.minimum(slope, 0.0)
    steps = np.abs(np.diff(losses, prepend=losses[:1]))
    by_steps = _NORMAL * _median_before(steps, 256) / 2**0.5
    return level, np.fmax(by_steps, _NORMAL * _median_before(np.abs(losses - level), 256))


def _median_before(values: Floats, size: int) -> Floats:
    """Return the median of the `size` values before each value; not a number where there are fewer."""
    medians = np.full(len(values), np.nan)
    windows = sliding_window_view(values, size)[:-1] if len(values) > size else []
    for start in range(0, len(windows), _CHUNK):
        medians[size + start : size + start + _CHUNK] = np.median(windows[start : start + _CHUNK], axis=1)
    return medians
