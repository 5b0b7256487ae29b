"""One curve under watch: its baseline, and the episode it is in when it leaves that baseline.

```
quiet ── beyond the threshold ──▶ suspect ── again within four values, or slowly piled up ──▶ confirmed
  ▲                                  │                                                            │
  ├──────── benign: three ordinary values in a row ◀──────────────────────────────────────────────┤
  └──────── accepted as the curve's new level after `accept_after_values` ◀───────────────────────┘
```

While an episode is open nothing is learnt: otherwise the strange values themselves would soon count as normal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from harness.watch.baseline import Baseline, Tail
from harness.watch.verdict import Direction, Kind, OpenEpisode, Verdict

_NUM_RECENT = 8
_NUM_CONFIRMING = 4


@dataclass(frozen=True, kw_only=True)
class SeriesSettings:
    """Thresholds of a series, in standard deviations of the curve's own noise."""

    least_threshold: float = 6.2
    """A curve with normal noise is suspect from here."""
    most_threshold: float = 7.0
    """A curve with heavy tails is suspect from here at the latest."""
    one_alarm_in: float = 1e7
    """Number of values in which the measured tail exceeds the threshold once, within the two limits above."""
    witnessed_share: float = 0.8
    """Factor on the threshold just after the gradient norm has jumped."""
    confirming_share: float = 0.75
    """A second value beyond this share of the threshold, within four values, confirms an episode."""
    least_jump_nats: float = 0.07
    """A single value closer to the forecast than this is never reported."""
    ordinary_z: float = 3.5
    """Values within this are ordinary."""
    ordinary_values: int = 3
    """Number of ordinary values in a row that end an episode."""
    accept_after_values: int = 200
    """Number of values after which the level of an episode becomes the new normal."""
    start_after_values: int = 32
    """Number of values before which only an explosion is reported."""
    young_surplus: float = 16.0
    """After n values the threshold is higher by this number divided by n, because little is known of the noise yet."""
    explosion_nats: float = 1.5
    """A rise by this much is reported at any time, even after a planned change."""
    pile_allowance: float = 2.0
    """A cumulative sum grows by the amount by which a value exceeds this …"""
    pile_limit: float = 14.0
    """… and confirms at this height: a move of 4 standard deviations in 7 values."""


@dataclass(slots=True)
class Episode:
    """Consecutive steps in which the curve is off its baseline."""

    sign: int
    start: int
    end: int
    peak_z: float = 0.0
    height: float = 0.0
    confirmed: bool = False
    num_values: int = 0
    num_ordinary: int = 0


@dataclass(slots=True)
class Series:
    """The watched state of one curve."""

    channel: str
    baseline: Baseline = field(default_factory=Baseline)
    episode: Episode | None = None
    recent_z: list[float] = field(default_factory=list)
    recent_steps: list[int] = field(default_factory=list)
    pile_up: float = 0.0
    pile_down: float = 0.0

    def observe(
        self, step: int, value: float, weight: float, settings: SeriesSettings, witnessed: bool = False
    ) -> list[Verdict]:
        """Judge one finite value, backed by `weight` tokens; return the new verdicts, usually none."""
        baseline = self.baseline
        z = baseline.judge(value, weight)
        self._remember(step, z, settings)
        if self.episode is not None:
            return self._follow(step, z, settings, witnessed)
        if (
            abs(z) < settings.confirming_share * settings.witnessed_share * settings.least_threshold
            and self.pile_up < settings.pile_limit
            and self.pile_down < settings.pile_limit
        ):
            baseline.learn(value, weight, z)
            return []
        verdicts = self._open(step, z, settings, witnessed)
        if verdicts:
            baseline.hold()
        else:
            baseline.learn(value, weight, z)
        return verdicts

    def open_episode(self) -> OpenEpisode | None:
        """Return the open episode, if there is one."""
        episode = self.episode
        if episode is None:
            return None
        return OpenEpisode(
            channel=self.channel,
            direction=_direction(episode.sign),
            confirmed=episode.confirmed,
            start=episode.start,
            end=episode.end,
            peak_z=episode.peak_z,
            recent_z=median(self.recent_z[-1 - episode.num_values :]),
        )

    def threshold(self, sign: int, settings: SeriesSettings, witnessed: bool = False) -> float:
        """Return the size from which a move in this direction is suspect."""
        tail: Tail = self.baseline.up if sign > 0 else self.baseline.down
        size = tail.exceeded_once_in(settings.one_alarm_in)
        size = min(max(size, settings.least_threshold), settings.most_threshold)
        size *= 1.0 + settings.young_surplus / max(1, self.baseline.num_values)
        return size * settings.witnessed_share if witnessed else size

    def forget_episode(self) -> None:
        """Drop the open episode without a verdict. The baseline stays."""
        self.episode = None
        self.pile_up = self.pile_down = 0.0

    def rewind(self) -> None:
        """Drop the open episode and the last values: the next values do not follow them and must not confirm them."""
        self.forget_episode()
        self.recent_z.clear()
        self.recent_steps.clear()

    def relearn(self, level: float | None = None) -> None:
        """Forget the episode and the trend, and learn the level anew: from `level` on, or from the next values."""
        self.forget_episode()
        self.baseline.relearn(level)

    def _remember(self, step: int, z: float, settings: SeriesSettings) -> None:
        """Keep the last sizes, and update the cumulative sums."""
        self.recent_z.append(z)
        self.recent_steps.append(step)
        if len(self.recent_z) > _NUM_RECENT:
            del self.recent_z[0], self.recent_steps[0]
        allowance = settings.pile_allowance
        if z > allowance or self.pile_up:
            self.pile_up = max(0.0, self.pile_up + min(z, settings.least_threshold) - allowance)
        if z < -allowance or self.pile_down:
            self.pile_down = max(0.0, self.pile_down - max(z, -settings.least_threshold) - allowance)

    def _open(self, step: int, z: float, settings: SeriesSettings, witnessed: bool) -> list[Verdict]:
        """Open an episode if this value is strange, by itself or with those before it."""
        residual = self.baseline.residual
        sign = 1 if residual > 0 else -1
        threshold = self.threshold(sign, settings, witnessed)
        if self.baseline.num_values < settings.start_after_values:
            self.pile_up = self.pile_down = 0.0
            if residual < settings.explosion_nats or z < threshold:
                return []
        seen_again = self._seen_again(sign, settings, threshold)
        tall = abs(z) >= threshold or seen_again
        if not (tall and abs(residual) >= settings.least_jump_nats) and not self._piled(sign, settings):
            return []
        first = self._first_off(sign, settings)
        self.episode = Episode(sign=sign, start=step if not seen_again else first, end=step)
        self._grow(step, z)
        return [self._verdict("suspect", step), *self._confirm(step, settings, threshold)]

    def _follow(self, step: int, z: float, settings: SeriesSettings, witnessed: bool) -> list[Verdict]:
        """Continue the open episode: confirm it, close it, or accept its level."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        episode.num_values += 1
        if episode.num_values >= settings.accept_after_values:
            return self._accept(step)
        if -z * episode.sign >= self.threshold(-episode.sign, settings):
            verdicts = [self._close(step), *self._open(step, z, settings, witnessed)]  # in the other direction
            self.baseline.hold()
            return verdicts
        if z * episode.sign >= settings.ordinary_z:
            self._grow(step, z)
        else:
            episode.num_ordinary += 1
        self.baseline.hold()
        if episode.num_ordinary >= settings.ordinary_values:
            return [self._close(step)]
        return self._confirm(step, settings, self.threshold(episode.sign, settings, witnessed))

    def _grow(self, step: int, z: float) -> None:
        """Extend the open episode by a value that is off."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        episode.end, episode.num_ordinary = step, 0
        if abs(z) > abs(episode.peak_z):
            episode.peak_z, episode.height = z, self.baseline.residual

    def _confirm(self, step: int, settings: SeriesSettings, threshold: float) -> list[Verdict]:
        """Confirm the open episode if it was seen again, or if the cumulative sum is high enough."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        again = self._seen_again(episode.sign, settings, threshold) or self._piled(episode.sign, settings)
        if episode.confirmed or not again:
            return []
        episode.confirmed = True
        return [self._verdict("confirmed", step)]

    def _close(self, step: int) -> Verdict:
        """Close the open episode: the curve came back by itself."""
        verdict = self._verdict("benign", step)
        self.forget_episode()
        return verdict

    def _accept(self, step: int) -> list[Verdict]:
        """Close an episode that did not end by itself: its level is now the level of the curve."""
        verdict = self._verdict("confirmed", step)
        self.relearn(self.baseline.forecast + median(self.recent_z) * self.baseline.sigma)
        return [verdict]

    def _seen_again(self, sign: int, settings: SeriesSettings, threshold: float) -> bool:
        """Return whether two of the last four values are beyond the confirming size."""
        limit = settings.confirming_share * threshold
        return sum(z * sign >= limit for z in self.recent_z[-_NUM_CONFIRMING:]) >= 2

    def _piled(self, sign: int, settings: SeriesSettings) -> bool:
        """Return whether small deviations have added up to a strange one."""
        return (self.pile_up if sign > 0 else self.pile_down) >= settings.pile_limit

    def _first_off(self, sign: int, settings: SeriesSettings) -> int:
        """Return the first of the last four steps that was off, which is where the episode began."""
        recent = zip(self.recent_steps[-_NUM_CONFIRMING:], self.recent_z[-_NUM_CONFIRMING:], strict=True)
        return next((step for step, z in recent if z * sign >= settings.ordinary_z), self.recent_steps[-1])

    def _verdict(self, kind: Kind, step: int) -> Verdict:
        """Return the open episode as a verdict."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        return Verdict(
            kind=kind,
            channel=self.channel,
            direction=_direction(episode.sign),
            step=step,
            start=episode.start,
            end=episode.end,
            z=episode.peak_z,
            height=episode.height,
        )


def _direction(sign: int) -> Direction:
    return "up" if sign > 0 else "down"
