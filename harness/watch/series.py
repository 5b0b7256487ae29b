"""One curve under watch: its baseline, and the episode it is in when it leaves that baseline.

```
quiet ── beyond the threshold ──▶ suspect ── again within four values, or slowly piled up ──▶ confirmed
  ▲                                  │                                                            │
  ├──────── benign: three ordinary values in a row ◀──────────────────────────────────────────────┤
  └──────── accepted as the curve's new level after `accept_after_values` ◀───────────────────────┘
```

While an episode is open nothing is learnt: otherwise the strange values themselves would soon count as normal. When an
open episode returns after ordinary values, or grows by half, it is called suspect again, up to the present step:
checkpoints and people must know how far it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from harness.watch.baseline import Baseline
from harness.watch.verdict import Direction, Kind, OpenEpisode, Verdict

NUM_RECENT = 8
_NUM_CONFIRMING = 4
_MOST_KEPT = 64
_KEPT = 16
"""The lists of the last values are cut to the second length when they have the first."""
_GROWN = 1.5
"""An open episode is said again when it is larger than what was said by this factor."""
_NOISIER = 1.5
"""Median distance of the last values from their middle, in standard deviations (0.67 if the noise is as it was), from
which the noise of an accepted level is learnt anew too."""


@dataclass(frozen=True, kw_only=True)
class SeriesSettings:
    """Thresholds of a series, in standard deviations of the curve's own noise."""

    least_threshold: float = 6.6
    """A curve with normal noise is suspect from here."""
    most_threshold: float = 7.5
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
    accept_after_values: int = 40
    """Number of values after which the level of an episode becomes the new normal …"""
    accept_after_steps: int = 200
    """… if it has lasted for this many steps too."""
    start_after_values: int = 32
    """Number of values before which only an explosion is reported."""
    young_surplus: float = 8.0
    """After n values the threshold is higher by this number divided by n, because little is known of the noise yet."""
    explosion_nats: float = 1.5
    """A rise by this much is reported at any time, even after a planned change."""
    pile_allowance: float = 2.0
    """A cumulative sum grows by the amount by which a value exceeds this …"""
    pile_limit: float = 14.0
    """… and confirms at this height: a move of 4 standard deviations in 7 values."""
    climb_pile: float = 6.0
    """From this height of the cumulative sum on (4.2 of this value, and 1.8 of those before it) …"""
    climb_z: float = 6.2
    """… a value beyond this is suspect: it is the top of a ramp that the forecast has followed for a while."""


@dataclass(slots=True)
class Episode:
    """Consecutive steps in which the curve is off its baseline."""

    sign: int
    start: int
    end: int
    peak_z: float = 0.0
    height: float = 0.0
    said_z: float = 0.0
    """Size of the peak when the episode was called suspect last."""
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
    reach: int = 0
    """Number of steps that a value spans before its own, if it is the mean of a block."""

    def observe(
        self, step: int, value: float, weight: float, settings: SeriesSettings, witnessed: bool = False
    ) -> list[Verdict]:
        """Judge one finite value, backed by `weight` tokens; return the new verdicts, usually none."""
        baseline = self.baseline
        z = baseline.judge(value, weight)
        self.recent_z.append(z)
        self.recent_steps.append(step)
        if len(self.recent_z) >= _MOST_KEPT:
            del self.recent_z[:-_KEPT], self.recent_steps[:-_KEPT]
        allowance = settings.pile_allowance
        if z > allowance or z < -allowance or self.pile_up or self.pile_down:
            self._pile(z, settings)
        elif self.episode is None:  # nearly always
            baseline.learn(value)
            return []
        if self.episode is not None:
            return self._follow(step, z, settings, witnessed)
        if (
            abs(z) < settings.confirming_share * settings.witnessed_share * settings.least_threshold
            and self.pile_up < settings.pile_limit
            and self.pile_down < settings.pile_limit
        ):
            self._learn(value, z)
            return []
        verdicts = self._open(step, z, settings, witnessed)
        if verdicts:
            baseline.hold()
        else:
            self._learn(value, z)
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
            recent_z=median(self.recent_z[-min(NUM_RECENT, 1 + episode.num_values) :]),
        )

    def say_anew(self, step: int) -> list[Verdict]:
        """Return the verdicts on the open episode as if it began here: the policy is done with its earlier start."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        episode.start = step - self.reach
        confirmed = [self._verdict("confirmed", episode, step)] if episode.confirmed else []
        return [self._suspect(episode, step), *confirmed]

    def threshold(self, sign: int, settings: SeriesSettings, witnessed: bool = False) -> float:
        """Return the size from which a move in this direction is suspect."""
        tail = self.baseline.up if sign > 0 else self.baseline.down
        size = tail.exceeded_once_in(settings.one_alarm_in, self.baseline.age)
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

    def relearn(self) -> None:
        """Forget the episode and the trend, and learn the level anew from the next values."""
        self.forget_episode()
        self.baseline.relearn()

    def move_to(self, level: float) -> None:
        """Forget the episode, and go on from another level with the noise that is known."""
        self.forget_episode()
        self.baseline.move_to(level)

    def _learn(self, value: float, z: float) -> None:
        """Learn an ordinary value that may be far off."""
        self.baseline.learn(value)
        self.baseline.learn_tail(z)

    def _pile(self, z: float, settings: SeriesSettings) -> None:
        """Update the cumulative sums."""
        cap, allowance = settings.least_threshold, settings.pile_allowance
        self.pile_up = max(0.0, self.pile_up + min(z, cap) - allowance)
        self.pile_down = max(0.0, self.pile_down - max(z, -cap) - allowance)

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
        tall = abs(z) >= threshold or seen_again or self._has_climbed(sign, abs(z), settings)
        if not (tall and abs(residual) >= settings.least_jump_nats) and not self._piled(sign, settings):
            return []
        start = self._first_off(sign, settings) if seen_again else step
        episode = self.episode = Episode(sign=sign, start=start - self.reach, end=step)
        self._grow(episode, step, z)
        return [self._suspect(episode, step), *self._confirm(episode, step, settings, threshold)]

    def _follow(self, step: int, z: float, settings: SeriesSettings, witnessed: bool) -> list[Verdict]:
        """Continue the open episode: confirm it, close it, or accept its level."""
        episode = self.episode
        assert episode is not None, "an episode is open"
        episode.num_values += 1
        has_lasted = step - episode.start >= settings.accept_after_steps
        if has_lasted and episode.num_values >= settings.accept_after_values:
            return self._accept(episode, step)
        if -z * episode.sign >= self.threshold(-episode.sign, settings):
            verdicts = [self._close(episode, step), *self._open(step, z, settings, witnessed)]
            self.baseline.hold()
            return verdicts
        self.baseline.hold()
        size = z * episode.sign
        if size < settings.ordinary_z:
            episode.num_ordinary += 1
            if episode.num_ordinary >= settings.ordinary_values:
                return [self._close(episode, step)]
            return []
        threshold = self.threshold(episode.sign, settings, witnessed)
        has_returned = episode.num_ordinary > 0
        self._grow(episode, step, z)
        verdicts = self._confirm(episode, step, settings, threshold)
        if size >= threshold and (has_returned or size >= _GROWN * abs(episode.said_z)):
            verdicts.insert(0, self._suspect(episode, step))
        return verdicts

    def _grow(self, episode: Episode, step: int, z: float) -> None:
        """Extend the open episode by a value that is off."""
        episode.end, episode.num_ordinary = step, 0
        if abs(z) > abs(episode.peak_z):
            episode.peak_z, episode.height = z, self.baseline.residual

    def _confirm(self, episode: Episode, step: int, settings: SeriesSettings, threshold: float) -> list[Verdict]:
        """Confirm the open episode if it was seen again, or if the cumulative sum is high enough."""
        again = self._seen_again(episode.sign, settings, threshold) or self._piled(episode.sign, settings)
        if episode.confirmed or not again:
            return []
        episode.confirmed = True
        return [self._verdict("confirmed", episode, step)]

    def _suspect(self, episode: Episode, step: int) -> Verdict:
        """Call the open episode suspect, up to this step."""
        episode.said_z = episode.peak_z
        return self._verdict("suspect", episode, step)

    def _close(self, episode: Episode, step: int) -> Verdict:
        """Close the open episode: the curve came back by itself."""
        verdict = self._verdict("benign", episode, step)
        self.forget_episode()
        return verdict

    def _accept(self, episode: Episode, step: int) -> list[Verdict]:
        """Close an episode that did not end by itself: its level is now the level of the curve."""
        verdict = self._verdict("confirmed", episode, step)
        recent = self.recent_z[-NUM_RECENT:]
        middle = median(recent)
        is_as_noisy = median(abs(z - middle) for z in recent) < _NOISIER
        self.move_to(self.baseline.forecast + middle * self.baseline.sigma)
        if not is_as_noisy:
            self.baseline.relearn()
        return [verdict]

    def _seen_again(self, sign: int, settings: SeriesSettings, threshold: float) -> bool:
        """Return whether two of the last four values are beyond the confirming size."""
        limit = settings.confirming_share * threshold
        return sum(z * sign >= limit for z in self.recent_z[-_NUM_CONFIRMING:]) >= 2

    def _piled(self, sign: int, settings: SeriesSettings) -> bool:
        """Return whether small deviations have added up to a strange one."""
        return (self.pile_up if sign > 0 else self.pile_down) >= settings.pile_limit

    def _has_climbed(self, sign: int, size: float, settings: SeriesSettings) -> bool:
        """Return whether this value is the top of a ramp."""
        return size >= settings.climb_z and (self.pile_up if sign > 0 else self.pile_down) >= settings.climb_pile

    def _first_off(self, sign: int, settings: SeriesSettings) -> int:
        """Return the first of the last four steps that was off, which is where the episode began."""
        recent = zip(self.recent_steps[-_NUM_CONFIRMING:], self.recent_z[-_NUM_CONFIRMING:], strict=True)
        return next((step for step, z in recent if z * sign >= settings.ordinary_z), self.recent_steps[-1])

    def _verdict(self, kind: Kind, episode: Episode, step: int) -> Verdict:
        """Return the open episode as a verdict."""
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
