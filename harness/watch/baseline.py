"""Forecast of one noisy curve, and the size of its noise: level, slope, scale and tails from past values only.

Three level-and-slope filters of different speed run side by side, and the one with the best recent forecasts counts. In
early training, where the loss falls steeply, that is a fast one; later a slow one, which is less noisy. Every update is
clipped (Huber), so that an outlier moves nothing by more than an ordinary value would.

Residuals are weighted by the square root of the tokens behind a value: a channel with 4 % of its usual tokens in a step
may be five times further off before it is called strange.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

GAINS = (0.05, 0.15, 0.4)
"""Share of a residual that each filter adds to its level. The slope takes gain² / 4 (critically damped)."""
_SCALE_GAIN = 1 / 64
"""Gain of each filter's mean absolute residual, by which the filter that counts is chosen."""
_LONG_SCALE_GAIN = 1 / 400
"""Gain of the long-term scale. 400 values give the noise to 2.5 %, 64 values to 6 %."""
_SCALE_TRUST = 1.12
"""Maximum factor between the long-term and the recent scale, because the noise may change."""
_YOUNG = 8.0
"""After few values the averages span 1 / 8 of the values seen, so that the first, steep part of a run is soon
forgotten."""
YOUNG_VALUES = 20
"""Number of values after a start that are taken without clipping, because the noise is not known yet."""
LEAST_SIGMA = 5e-4
"""Minimum standard deviation that is assumed for a curve, in nats. 16 M tokens per step have about 3e-3."""
_HUBER = 2.0
"""Residuals beyond this many scales move level and slope as if they were this large."""
_SCALE_CLIP = 2.5
"""Residuals beyond this many scales count as this many in the scale."""
_MEAN_ABSOLUTE = 0.7939
"""E[min(|z|, 2.5)] of a standard normal z: turns a clipped mean absolute residual into a standard deviation."""
_BETTER = 0.97
"""Another filter is chosen only if its residuals are smaller by this factor."""
_SLOPE_KEPT = 0.97
"""Factor on the slope per value while the curve is off its baseline and nothing is learnt."""
_TAIL_STARTS = 2.5
"""Residuals beyond this many scales belong to the tail."""
_TAIL_SHARE, _TAIL_EXCESS = 0.0065, 0.34
"""A normal curve's tail: share of values beyond 2.5 scales on one side, and how far beyond on average."""
_TAIL_SHARE_GAIN, _TAIL_EXCESS_GAIN, _TAIL_CAP = 1 / 1000, 1 / 64, 5.0


@dataclass(slots=True)
class Filter:
    """A level with a slope per value, and the size of its residuals."""

    gain: float
    level: float = 0.0
    slope: float = 0.0
    spread: float = 0.0
    """Clipped mean absolute residual, in nats times the square root of tokens."""

    def learn(self, value: float, root_weight: float, share: float, spread_gain: float, clip: float) -> float:
        """Update with one value, with `share` (0 … 1) of the usual gain; return its weighted absolute residual.

        Residuals beyond a limit count as if they were at the limit; `clip` widens the limits.
        """
        forecast = self.level + self.slope
        residual = value - forecast
        size = (residual if residual > 0.0 else -residual) * root_weight
        sigma = self.spread / _MEAN_ABSOLUTE
        if sigma < LEAST_SIGMA * root_weight:
            sigma = LEAST_SIGMA * root_weight
        limit = clip * _HUBER * sigma
        if size > limit:
            residual *= limit / size
        step = self.gain * share * residual
        self.level = forecast + step
        self.slope += 0.25 * self.gain * step
        cap = clip * _SCALE_CLIP * sigma
        self.spread += spread_gain * ((size if size < cap else cap) - self.spread)
        return size


@dataclass(slots=True)
class Tail:
    """An exponential tail beyond 2.5 scales, on one side of the noise."""

    share: float = _TAIL_SHARE
    excess: float = _TAIL_EXCESS

    def learn(self, z: float) -> None:
        """Update with one standardized residual beyond the start of this tail."""
        self.share += _TAIL_SHARE_GAIN
        self.excess += _TAIL_EXCESS_GAIN * (min(z - _TAIL_STARTS, _TAIL_CAP) - self.excess)

    def exceeded_once_in(self, num_values: float) -> float:
        """Return the size that one value in `num_values` exceeds, if the tail goes on exponentially."""
        return _TAIL_STARTS + self.excess * math.log(max(1.0, self.share * num_values))


@dataclass(slots=True)
class Baseline:
    """Forecast, scale and tails of one curve. Call `judge`, then exactly one of `learn` and `hold`."""

    filters: list[Filter] = field(default_factory=lambda: [Filter(gain) for gain in GAINS])
    speaker: int = len(GAINS) - 1
    """Index of the filter whose forecast counts."""
    num_values: int = 0
    """Values learnt since the start or the last `relearn`."""
    long_spread: float = 0.0
    """Clipped mean absolute residual of the forecasts that counted, over many values."""
    mean_weight: float = 0.0
    """Usual number of tokens behind a value."""
    up: Tail = field(default_factory=Tail)
    down: Tail = field(default_factory=Tail)
    residual: float = 0.0
    """Last judged value minus its forecast, in nats."""
    sigma: float = 0.0
    """Standard deviation expected of the last judged value, in nats."""

    @property
    def forecast(self) -> float:
        """Forecast of the next value."""
        speaker = self.filters[self.speaker]
        return speaker.level + speaker.slope

    def judge(self, value: float, weight: float) -> float:
        """Return how many standard deviations `value`, backed by `weight` tokens, is off.

        Sets `residual` and `sigma`.
        """
        speaker = self.filters[self.speaker]
        recent = speaker.spread
        spread = self.long_spread
        if spread > recent * _SCALE_TRUST:
            spread = recent * _SCALE_TRUST
        elif spread < recent / _SCALE_TRUST:
            spread = recent / _SCALE_TRUST
        sigma = spread / (_MEAN_ABSOLUTE * math.sqrt(weight))
        self.sigma = sigma = sigma if sigma > LEAST_SIGMA else LEAST_SIGMA
        self.residual = residual = value - (speaker.level + speaker.slope)
        return residual / sigma if self.num_values > 1 else 0.0

    def learn(self, value: float, weight: float, z: float) -> None:
        """Update with an ordinary value; `z` is the result of `judge` for it."""
        self.num_values += 1
        if self.num_values <= 2:
            self._start(value, weight)
            return
        root_weight = math.sqrt(weight)
        share = 1.0 if weight >= self.mean_weight else weight / self.mean_weight
        self.mean_weight += (weight - self.mean_weight) / (self.num_values if self.num_values < 200 else 200)
        young = _YOUNG / (self.num_values + _YOUNG)
        spread_gain = young if young > _SCALE_GAIN else _SCALE_GAIN
        clip = 1.0 if self.num_values > YOUNG_VALUES else math.inf
        speaker = self.filters[self.speaker]
        best, limit = self.speaker, math.inf
        for index, each in enumerate(self.filters):
            size = each.learn(value, root_weight, share, spread_gain, clip)
            if each is speaker:
                self._learn_long_spread(size, root_weight, young, clip)
            elif each.spread < limit:
                best, limit = index, each.spread
        if limit < speaker.spread * _BETTER:
            self.speaker = best
        self.up.share *= 1.0 - _TAIL_SHARE_GAIN
        self.down.share *= 1.0 - _TAIL_SHARE_GAIN
        if z > _TAIL_STARTS:
            self.up.learn(z)
        elif z < -_TAIL_STARTS:
            self.down.learn(-z)

    def _learn_long_spread(self, size: float, root_weight: float, young: float, clip: float) -> None:
        """Update the long-term scale with the residual of the forecast that counted."""
        cap = clip * _SCALE_CLIP * max(self.long_spread / _MEAN_ABSOLUTE, LEAST_SIGMA * root_weight)
        gain = young if young > _LONG_SCALE_GAIN else _LONG_SCALE_GAIN
        self.long_spread += gain * ((size if size < cap else cap) - self.long_spread)

    def hold(self) -> None:
        """Pass over a strange value without learning from it. The trend goes on and fades."""
        for each in self.filters:
            each.level += each.slope
            each.slope *= _SLOPE_KEPT

    def relearn(self, level: float | None = None) -> None:
        """Forget the trend and learn new values quickly, from `level` on if given. The scale stays as a first guess."""
        self.num_values = min(self.num_values, int(_YOUNG))
        for each in self.filters:
            each.slope = 0.0
            if level is not None:
                each.level = level
        self.speaker = len(GAINS) - 1

    def _start(self, value: float, weight: float) -> None:
        """Set level and scale from the first two values."""
        spread = abs(value - self.filters[0].level) * math.sqrt(weight) if self.num_values == 2 else 0.0
        for each in self.filters:
            each.level, each.slope, each.spread = value, 0.0, spread
        self.long_spread, self.mean_weight = spread, weight
