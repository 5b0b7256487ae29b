"""One curve watched at three speeds: value by value, in blocks of 16 and in blocks of 128.

A fall over thirty steps, or a rise over a thousand, is never strange from one value to the next. The mean of a block of
16 (of 128) values has a quarter (an eleventh) of the noise and 16 (128) times the move, so the same rule detects it.

A move that blocks see is an alarm only if it is fast and far: five standard deviations of single values within four
blocks. What creeps is drift, which people are told and which rolls nothing back: small models drift by a tenth of a nat
by themselves, within hundreds of steps, and stay there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from harness.watch.baseline import Baseline
from harness.watch.series import Series, SeriesSettings
from harness.watch.verdict import Kind, OpenEpisode, Verdict

VALUE_SETTINGS = SeriesSettings()
BLOCK_SETTINGS = SeriesSettings(
    least_threshold=6.2,
    most_threshold=7.0,
    one_alarm_in=1e6,
    least_jump_nats=0.05,
    ordinary_values=2,
    accept_after_values=12,
    accept_after_steps=0,
    start_after_values=12,
    pile_limit=1e9,  # blocks are few: two of four are soon enough
    climb_pile=1e9,
)
"""For blocks of 16. They report suspect, then confirmed, like single values; or drift."""
DRIFT_SETTINGS = replace(BLOCK_SETTINGS, accept_after_values=4)
"""For blocks of 128. They report drift."""
_VALUES_PER_BLOCK, _BLOCKS_PER_DRIFT_BLOCK = 16, 8
_CLIP = 4.0
"""Single values count in a block's mean as if they were at most this many standard deviations off."""
_ALARM_SIGMAS, _ALARM_BLOCKS = 5.0, 4
"""A move that blocks see is an alarm if it is this many standard deviations of single values within so many blocks."""
_DIVERGED_NATS = 0.5
"""However slowly it crept, a rise by this much is an alarm, also in several drifts …"""
_SAME_CREEP_BLOCKS = 64
"""… that follow each other within this many blocks. A fall is none: losses fall."""
_CREEP_Z, _LEAST_CREEP_NATS = 6.0, 0.05
"""A rise is a creep when the slow filter of the blocks, by its own noise, is behind by this much."""
_CREEP_BEGINS_Z = 2.0
_SHIFT_BLOCKS = 8
"""Number of blocks after a resume in which the level is compared with that before it, after 1, 2, 4 and 8."""
_SHIFT_Z, _LEAST_SHIFT_NATS = 4.5, 0.015


@dataclass(slots=True)
class Block:
    """A block that is being filled, and the series of the means of full blocks."""

    size: int
    series: Series
    num_values: int = 0
    weighted_sum: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float) -> tuple[float, float] | None:
        """Add a value; return the mean and the tokens behind it when the block is full."""
        self.num_values += 1
        self.weighted_sum += value * weight
        self.weight += weight
        if self.num_values < self.size:
            return None
        mean = self.weighted_sum / self.weight, self.weight
        self.clear()
        return mean

    def clear(self) -> None:
        """Drop the values of the unfinished block."""
        self.num_values, self.weighted_sum, self.weight = 0, 0.0, 0.0

    def relearn(self) -> None:
        """Drop the unfinished block and learn the series' level anew."""
        self.clear()
        self.series.relearn()

    def move_to(self, level: float) -> None:
        """Drop the unfinished block and go on from another level."""
        self.clear()
        self.series.move_to(level)


@dataclass(slots=True)
class Creep:
    """Distance of the blocks from their slow forecast, and since when; after a resume also the sum of distances."""

    start: int | None = None
    """First step since which every block is well above its forecast."""
    resumed_at: int | None = None
    """First step after a resume, while the sums run. Where a shift would be is known then, so less is enough."""
    num_blocks: int = 0
    sum_z: float = 0.0
    sum_off: float = 0.0

    def observe(self, step: int, reach: int, level: Baseline) -> tuple[int, float, float] | None:
        """Take a block, which the baseline has judged and which began `reach` steps earlier.

        Return start, size and height of a shift or a creep if it shows one.
        """
        if self.resumed_at is not None:
            self.num_blocks += 1
            self.sum_z += level.residual / level.sigma
            self.sum_off += level.residual
            size, height = self.sum_z / math.sqrt(self.num_blocks), self.sum_off / self.num_blocks
            is_time = self.num_blocks & (self.num_blocks - 1) == 0  # after 1, 2, 4 and 8
            if is_time and abs(size) >= _SHIFT_Z and abs(height) >= _LEAST_SHIFT_NATS:
                return self.resumed_at, size, height
            if self.num_blocks >= _SHIFT_BLOCKS:
                self.resumed_at = None
        z, off = level.slow_z(), level.slow_residual
        if z < _CREEP_BEGINS_Z:
            self.start = None
        elif self.start is None:
            self.start = step - reach
        if self.start is not None and z >= _CREEP_Z and off >= _LEAST_CREEP_NATS:
            return self.start, z, off
        return None


@dataclass(slots=True)
class Drifted:
    """Upward drifts that follow each other."""

    start: int | None = None
    """Start of the first of them; None if there are none."""
    origin: float = 0.0
    """Level before the first of them."""
    num_blocks: int = 0
    """Blocks since the last of them."""

    def add(self, drift: Verdict, mean: float) -> Verdict:
        """Take a drift, and the mean of the block at which it was seen; return it as such."""
        if drift.height < 0.0:
            self.start = None
        elif self.start is None:
            self.start, self.origin = drift.start, mean - drift.height
        self.num_blocks = 0
        return replace(drift, kind="drift")

    def diverged(self, mean: float) -> tuple[int, float] | None:
        """Take a block; return start and height of the whole move if that is no drift any more."""
        self.num_blocks += 1
        if self.num_blocks > _SAME_CREEP_BLOCKS:
            self.start = None
        if self.start is None or mean - self.origin < _DIVERGED_NATS:
            return None
        start, self.start = self.start, None
        return start, mean - self.origin


@dataclass(slots=True)
class Curve:
    """The watched state of one curve at every speed. A slower one observes only while the faster ones are quiet."""

    channel: str
    values: Series
    blocks: Block
    drift: Block
    creeps: bool = False
    """True while the open episode of the blocks was reported as drift."""
    creep: Creep = field(default_factory=Creep)
    drifted: Drifted = field(default_factory=Drifted)

    @classmethod
    def of(cls, channel: str) -> Curve:
        """Return a curve without any values yet."""
        return cls(
            channel=channel,
            values=Series(channel),
            blocks=Block(_VALUES_PER_BLOCK, Series(channel)),
            drift=Block(_BLOCKS_PER_DRIFT_BLOCK, Series(channel)),
        )

    def observe(
        self, step: int, value: float, weight: float, settings: SeriesSettings, witnessed: bool = False
    ) -> list[Verdict]:
        """Judge one finite value at every speed; return the new verdicts."""
        fast = self.values
        was_open = fast.episode is not None
        verdicts = fast.observe(step, value, weight, settings, witnessed)
        if fast.episode is not None:
            return verdicts
        baseline = fast.baseline
        if was_open and verdicts[-1].kind == "confirmed":  # the new level was accepted
            self._move_to(baseline.forecast)
            if baseline.num_values < settings.start_after_values:  # and with it another noise
                self.blocks.series.relearn()
                self.drift.series.relearn()
            return verdicts
        if not -_CLIP < fast.recent_z[-1] < _CLIP and baseline.num_values >= settings.start_after_values:
            excess = abs(baseline.residual) - _CLIP * baseline.sigma
            value -= excess if baseline.residual > 0 else -excess
        blocks = self.blocks
        if blocks.num_values + 1 < _VALUES_PER_BLOCK:  # nearly always
            blocks.num_values += 1
            blocks.weighted_sum += value * weight
            blocks.weight += weight
            return verdicts
        return verdicts + self._observe_blocks(step, value, weight)

    def open_episodes(self) -> list[OpenEpisode]:
        """Return the open episodes, by value or by block. Drift is not an episode."""
        slow = None if self.creeps else self.blocks.series.open_episode()
        return [episode for episode in (self.values.open_episode(), slow) if episode is not None]

    def rewind(self, step: int) -> None:
        """Drop the open episodes and the unfinished blocks: the run goes on from this step, after a resume."""
        is_known = self.blocks.series.baseline.num_values >= BLOCK_SETTINGS.start_after_values
        self.creep = Creep(resumed_at=step if is_known and not self.creeps else None)
        self.values.rewind()
        self.creeps = False
        for block in (self.blocks, self.drift):
            block.clear()
            block.series.rewind()

    def relearn(self) -> None:
        """Learn all levels anew: something was changed on purpose."""
        self.values.relearn()
        self.blocks.relearn()
        self.drift.relearn()
        self.creeps, self.creep = False, Creep()

    def _move_to(self, level: float) -> None:
        """Let the slower speeds go on from another level."""
        self.blocks.move_to(level)
        self.drift.move_to(level)
        self.creeps, self.creep = False, Creep()

    def _observe_blocks(self, step: int, value: float, weight: float) -> list[Verdict]:
        """Let the slower speeds observe a value that was not strange by itself."""
        block = self.blocks.add(value, weight)
        if block is None:
            return []
        mean = block[0]
        slow = self.blocks.series
        slow.reach = step - self.values.recent_steps[-_VALUES_PER_BLOCK:][0]
        self.drift.series.reach = _BLOCKS_PER_DRIFT_BLOCK * slow.reach
        was_open = slow.episode is not None
        found = slow.observe(step, *block, BLOCK_SETTINGS)
        verdicts = self._alarm_or_drift(found, step, mean)
        if (diverged := self.drifted.diverged(mean)) is not None:
            start, height = diverged
            alarm = self._verdict("suspect", step, start, height / self.values.baseline.sigma, height)
            verdicts += [alarm, replace(alarm, kind="confirmed")]
        if slow.episode is not None:
            self.drift.clear()
            return verdicts
        self.creeps = False
        if was_open and found[-1].kind == "confirmed":
            self.drift.move_to(slow.baseline.forecast)
            return verdicts
        if not found and slow.baseline.num_values > BLOCK_SETTINGS.start_after_values:
            crept = self.creep.observe(step, slow.reach, slow.baseline)
            if crept is not None:
                self._move_to(mean)
                return [*verdicts, self.drifted.add(self._verdict("drift", step, *crept), mean)]
        long_block = self.drift.add(*block)
        if long_block is None:
            return verdicts
        drifts = self.drift.series.observe(step, *long_block, DRIFT_SETTINGS)
        return verdicts + [self.drifted.add(drift, long_block[0]) for drift in drifts if drift.kind == "suspect"]

    def _alarm_or_drift(self, found: list[Verdict], step: int, mean: float) -> list[Verdict]:
        """Return the verdicts on blocks as alarms where the move is fast and far, otherwise as one drift."""
        verdicts = []
        if found and found[0].kind == "benign":
            verdicts = [] if self.creeps else found[:1]
            self.creeps, found = False, found[1:]
        episode = self.blocks.series.episode
        if episode is None:
            return verdicts if self.creeps else verdicts + found
        is_far = abs(episode.height) >= _ALARM_SIGMAS * self.values.baseline.sigma
        is_alarm = is_far and episode.num_values < _ALARM_BLOCKS
        if episode.num_values == 0 and not is_alarm:
            self.creeps = True
            return [*verdicts, self.drifted.add(found[0], mean)]
        if not self.creeps:
            return verdicts + found
        if is_alarm:
            self.creeps = False
            return verdicts + self.blocks.series.say_anew(step)
        return verdicts

    def _verdict(self, kind: Kind, step: int, start: int, z: float, height: float) -> Verdict:
        """Return a move between two steps that no episode of a series holds."""
        return Verdict(
            kind=kind,
            channel=self.channel,
            direction="up" if height > 0 else "down",
            step=step,
            start=start,
            end=step,
            z=z,
            height=height,
        )
