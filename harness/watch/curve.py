"""One curve watched at three speeds: value by value, in blocks of 16 and in blocks of 128.

A fall over thirty steps, or a rise over a thousand, is never strange from one value to the next. The mean of a block of
16 (of 128) values has a quarter (an eleventh) of the noise and 16 (128) times the move, so the same rule detects it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.watch.series import Series, SeriesSettings
from harness.watch.verdict import OpenEpisode, Verdict

VALUE_SETTINGS = SeriesSettings(most_threshold=6.6)
BLOCK_SETTINGS = SeriesSettings(
    one_alarm_in=1e6,
    ordinary_values=2,
    accept_after_values=12,
    start_after_values=12,
    pile_limit=1e9,  # blocks are few: two of four are soon enough
)
"""For blocks of 16. They report suspect, then confirmed, like single values."""
DRIFT_SETTINGS = replace(BLOCK_SETTINGS, accept_after_values=4)
"""For blocks of 128. They report drift."""
_VALUES_PER_BLOCK, _BLOCKS_PER_DRIFT_BLOCK = 16, 8
_CLIP = 4.0
"""Single values count in a block's mean as if they were at most this many standard deviations off."""


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

    def relearn(self, level: float | None) -> None:
        """Drop the unfinished block and learn the series' level anew."""
        self.clear()
        self.series.relearn(level)


@dataclass(slots=True)
class Curve:
    """The watched state of one curve at every speed. A slower one observes only while the faster ones are quiet."""

    values: Series
    blocks: Block
    drift: Block

    @classmethod
    def of(cls, channel: str) -> Curve:
        """Return a curve without any values yet."""
        return cls(
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
            self.blocks.relearn(baseline.forecast)
            self.drift.relearn(baseline.forecast)
            return verdicts
        excess = abs(baseline.residual) - _CLIP * baseline.sigma
        if excess > 0 and baseline.num_values >= settings.start_after_values:
            value -= excess if baseline.residual > 0 else -excess
        of_blocks = self._observe_blocks(step, value, weight)
        return verdicts + of_blocks if of_blocks else verdicts

    def open_episodes(self) -> list[OpenEpisode]:
        """Return the open episodes, by value or by block. Drift is not an episode."""
        episodes = (self.values.open_episode(), self.blocks.series.open_episode())
        return [episode for episode in episodes if episode is not None]

    def rewind(self) -> None:
        """Drop the open episodes and the unfinished blocks: the run went back to an earlier step."""
        self.values.rewind()
        for block in (self.blocks, self.drift):
            block.clear()
            block.series.rewind()

    def relearn(self) -> None:
        """Learn all levels anew: something was changed on purpose."""
        self.values.relearn()
        self.blocks.relearn(None)
        self.drift.relearn(None)

    def _observe_blocks(self, step: int, value: float, weight: float) -> list[Verdict]:
        """Let the slower speeds observe a value that was not strange by itself."""
        slow = self.blocks.series
        was_open = slow.episode is not None
        block = self.blocks.add(value, weight)
        if block is None:
            return []
        verdicts = slow.observe(step, *block, BLOCK_SETTINGS)
        if slow.episode is not None:
            self.drift.clear()
            return verdicts
        if was_open and verdicts[-1].kind == "confirmed":
            self.drift.relearn(slow.baseline.forecast)
            return verdicts
        long_block = self.drift.add(*block)
        if long_block is None:
            return verdicts
        drifts = self.drift.series.observe(step, *long_block, DRIFT_SETTINGS)
        return verdicts + [replace(drift, kind="drift") for drift in drifts if drift.kind == "suspect"]
