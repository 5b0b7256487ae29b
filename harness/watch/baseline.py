"""Forecast of one noisy curve, and the size of its noise: level, slope, scale and tails from past values only.

Two level-and-slope filters run side by side, and the one with the better recent forecasts speaks. Where the noise comes
in bursts, or the level has just moved, that is the fast one; otherwise the slow one, which is less noisy. Every update
is clipped, so that an outlier moves nothing by more than an ordinary value would.

The shape of the trend is known: a loss falls about as a power of the step, so the n-th slope is a little smaller than
the one before, by a share that is proportional to 1 / n. A filter that knows this may be slow even in the steep start.

Residuals are weighted by the square root of the tokens behind a value: a channel with 4 % of its usual tokens in a step
may be five times further off before it is called strange.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SLOW_GAIN, FAST_GAIN = 0.06, 0.25
"""Share of a residual that a filter adds to its level. The slope takes gain² / 4 (critically damped)."""
_SHAPE = 1.3
"""The n-th slope of a loss that falls as a power of the step is smaller than the one before by 1.1 to 1.5 in n."""
_SCALE_GAIN = 1 / 64
"""Gain of each filter's mean absolute residual, by which the filter that speaks is chosen."""
_LONG_SCALE_GAIN = 1 / 400
"""Gain of the long-term scale. 400 values give the noise to 2.5 %, 64 values to 6 %."""
_SCALE_TRUST = 1.12
"""Maximum factor between the long-term and the recent scale, because the noise may change."""
_YOUNG = 8.0
"""After few values the averages span 1 / 8 of the values seen, so that the first, steep part of a run is soon
forgotten."""
_KNOWN_SCALE_VALUES = 100
"""Number of values that the scale counts as known from when only the level is learnt anew."""
YOUNG_VALUES = 20
"""Number of values after a start that are taken without clipping, because the noise is not known yet."""
LEAST_SIGMA = 5e-4
"""Minimum standard deviation that is assumed for a curve, in nats. 16 M tokens per step have about 3e-3."""
_CLIP = 1.25
"""Residuals beyond this many scales count as this many, in the level and in the scale. The closer, the less a spike
adds to the noise by which the next is judged: with one strange value in five the scale grows by 1.4, at 2.5 by 2.2."""
_MEAN_ABSOLUTE = 0.6967
"""E[min(|z|, 1.25)] of a standard normal z: turns a clipped mean absolute residual into a standard deviation."""
_BETTER = 0.97
"""The other filter takes over only if its residuals are smaller by this factor."""
_SLOPE_KEPT = 0.97
"""Factor on the slope per value while the curve is off its baseline and nothing is learnt."""
TAIL_STARTS = 2.5
"""Residuals beyond this many scales belong to the tail."""
_TAIL_SHARE, _TAIL_EXCESS = 0.0065, 0.34
"""A normal curve's tail: share of values beyond 2.5 scales on one side, and how far beyond on average."""
_TAIL_SHARE_GAIN, _TAIL_EXCESS_GAIN, _TAIL_CAP = 1 / 1000, 1 / 64, 5.0


@dataclass(slots=True)
class Tail:
    """An exponential tail beyond 2.5 scales, on one side of the noise."""

    share: float = _TAIL_SHARE
    excess: float = _TAIL_EXCESS
    at: int = 0
    """Age of the baseline at which the share was right; it has faded since."""

    def learn(self, z: float, age: int) -> None:
        """Update with one standardized residual beyond the start of this tail."""
        self.share = self._faded(age) + _TAIL_SHARE_GAIN
        self.excess += _TAIL_EXCESS_GAIN * (min(z - TAIL_STARTS, _TAIL_CAP) - self.excess)
        self.at = age

    def exceeded_once_in(self, num_values: float, age: int) -> float:
        """Return the size that one value in `num_values` exceeds, if the tail goes on exponentially."""
        return TAIL_STARTS + self.excess * math.log(max(1.0, self._faded(age) * num_values))

    def _faded(self, age: int) -> float:
        return self.share * (1.0 - _TAIL_SHARE_GAIN) ** (age - self.at)


@dataclass(slots=True)
class Baseline:
    """Forecast, scale and tails of one curve.

    Call `judge`, then exactly one of `learn` and `hold`. After `learn` call `learn_tail` if the value was far off.
    """

    slow: float = 0.0
    """Forecast of the next value by the slow filter."""
    slow_slope: float = 0.0
    slow_spread: float = 0.0
    """Clipped mean absolute residual, in nats times the square root of tokens."""
    fast: float = 0.0
    fast_slope: float = 0.0
    fast_spread: float = 0.0
    fast_speaks: bool = True
    age: int = 0
    """Values learnt in all."""
    num_values: int = 0
    """Values learnt since the start or the last `relearn`."""
    long_spread: float = 0.0
    """Clipped mean absolute residual of the forecasts that counted, over many values."""
    scale: float = 0.0
    """Standard deviation of the next value, in nats times the square root of tokens."""
    mean_weight: float = 0.0
    """Usual number of tokens behind a value."""
    weight: float = 1.0
    """Tokens behind the last judged value."""
    root_weight: float = 1.0
    up: Tail = field(default_factory=Tail)
    down: Tail = field(default_factory=Tail)
    residual: float = 0.0
    """Distance of the last judged value from its forecast."""
    slow_residual: float = 0.0
    """Distance of the last judged value from the forecast of the slow filter."""
    sigma: float = LEAST_SIGMA
    """Standard deviation that was assumed for it."""

    @property
    def forecast(self) -> float:
        """Value that is expected next."""
        return self.fast if self.fast_speaks else self.slow

    def judge(self, value: float, weight: float) -> float:
        """Return how many standard deviations `value`, backed by `weight` tokens, is off.

        Sets `residual`, `slow_residual` and `sigma`.
        """
        if weight != self.weight:
            self.weight, self.root_weight = weight, math.sqrt(weight)
        self.slow_residual = residual = value - self.slow
        if self.fast_speaks:
            residual = value - self.fast
        self.residual = residual
        sigma = self.scale / self.root_weight
        self.sigma = sigma = sigma if sigma > LEAST_SIGMA else LEAST_SIGMA
        return residual / sigma if self.num_values > 1 else 0.0

    def slow_z(self) -> float:
        """Return how many standard deviations the judged value is off the slow filter's forecast, by its own noise."""
        wider = max(1.0, self.slow_spread / self.fast_spread) if self.fast_speaks and self.fast_spread > 0.0 else 1.0
        return self.slow_residual / (self.sigma * wider)

    def learn(self, value: float) -> None:
        """Update with an ordinary value, which was judged just before."""
        self.age = age = self.age + 1
        self.num_values = num_values = self.num_values + 1
        if num_values <= 2:
            self._start(value)
            return
        weight, root_weight, share = self.weight, self.root_weight, 1.0
        if weight != self.mean_weight:
            share = 1.0 if weight > self.mean_weight else weight / self.mean_weight
            self.mean_weight += (weight - self.mean_weight) / (num_values if num_values < 200 else 200)
        gain, long_gain = _SCALE_GAIN, _LONG_SCALE_GAIN
        if num_values < _YOUNG / _LONG_SCALE_GAIN:
            young = _YOUNG / (num_values + _YOUNG)
            gain, long_gain = max(gain, young), max(long_gain, young)
        kept = age / (age + _SHAPE)
        clip = _CLIP / _MEAN_ABSOLUTE if num_values > YOUNG_VALUES else 1e9
        floor = _CLIP * LEAST_SIGMA

        # Written out for either filter: a function for both would be called twice for every value of every channel.
        residual = value - self.slow
        limit = clip * self.slow_spread / root_weight + floor
        if residual > limit:
            residual = limit
        elif residual < -limit:
            residual = -limit
        step = SLOW_GAIN * share * residual
        self.slow_slope = slope = kept * (self.slow_slope + SLOW_GAIN / 4 * step)
        self.slow += step + slope
        slow_size = (residual if residual > 0.0 else -residual) * root_weight
        slow_spread = self.slow_spread + gain * (slow_size - self.slow_spread)

        residual = value - self.fast
        limit = clip * self.fast_spread / root_weight + floor
        if residual > limit:
            residual = limit
        elif residual < -limit:
            residual = -limit
        step = FAST_GAIN * share * residual
        self.fast_slope = slope = kept * (self.fast_slope + FAST_GAIN / 4 * step)
        self.fast += step + slope
        fast_size = (residual if residual > 0.0 else -residual) * root_weight
        fast_spread = self.fast_spread + gain * (fast_size - self.fast_spread)

        self.slow_spread, self.fast_spread = slow_spread, fast_spread
        size = fast_size if self.fast_speaks else slow_size
        self.long_spread = long = self.long_spread + long_gain * (size - self.long_spread)
        handicap = 1.0 / _BETTER if self.fast_speaks else _BETTER
        self.fast_speaks = fast_speaks = fast_spread < slow_spread * handicap
        recent = fast_spread if fast_speaks else slow_spread
        if long > recent * _SCALE_TRUST:
            long = recent * _SCALE_TRUST
        elif long * _SCALE_TRUST < recent:
            long = recent / _SCALE_TRUST
        self.scale = long / _MEAN_ABSOLUTE

    def learn_tail(self, z: float) -> None:
        """Update the tail on the side of `z`, the result of `judge` for a value that was learnt."""
        if z > TAIL_STARTS:
            self.up.learn(z, self.age)
        elif z < -TAIL_STARTS:
            self.down.learn(-z, self.age)

    def hold(self) -> None:
        """Pass over a strange value without learning from it. The slow trend goes on and fades."""
        self.slow_slope = self.fast_slope = slope = _SLOPE_KEPT * self.slow_slope
        self.slow += slope
        self.fast += slope

    def relearn(self) -> None:
        """Forget the trend and learn new values quickly. The scale stays as a first guess."""
        self.num_values = min(self.num_values, int(_YOUNG))
        self.slow_slope = self.fast_slope = 0.0
        self.fast_speaks = True

    def move_to(self, level: float) -> None:
        """Go on from another level. The noise stays as it is known."""
        self.num_values = min(self.num_values, _KNOWN_SCALE_VALUES)
        self.slow_slope = self.fast_slope = 0.0
        self.slow = self.fast = level
        self.fast_speaks = True

    def _start(self, value: float) -> None:
        """Set level and scale from the first two values."""
        spread = abs(value - self.slow) * self.root_weight if self.num_values == 2 else 0.0
        self.slow = self.fast = value
        self.slow_slope = self.fast_slope = 0.0
        self.slow_spread = self.fast_spread = self.long_spread = spread
        self.scale = spread / _MEAN_ABSOLUTE
        self.mean_weight = self.weight
