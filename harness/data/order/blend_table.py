"""The blend: a periodic table of channels, in which every channel keeps its share at all times.

The table is an earliest-deadline schedule of Tijdeman's solution to the chairman assignment problem (R. Tijdeman,
*The chairman assignment problem*, Discrete Mathematics 32, 1980): with m channels of shares s_c, after any number n
of samples the count of each channel differs from n·s_c by at most 1 - 1/(2m - 2). Sample i of a channel may therefore
come at slot n as soon as n·s_c ≥ i + 1/(2m - 2), and must have come before n·s_c exceeds i + 1 - 1/(2m - 2); taking
the earliest deadline first meets every deadline, because some schedule does.

Shapes: T slots of the table (its period), n samples that are asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import numpy.typing as npt

MAX_PERIOD = 65536
"""Longest table. Shares that need a longer one are rounded to 65,536ths."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """The table. Each of its slots names the channel of one sample: sample k has slot k mod `period`.

    Channels are numbered in the order of `names`.
    """

    names: tuple[str, ...]
    samples_per_period: tuple[int, ...]
    """Slots of each channel. Divided by `period` this is the share that is kept."""
    channel_by_slot: npt.NDArray[np.int64]
    """Channel of each slot, [T]."""
    ordinal_by_slot: npt.NDArray[np.int64]
    """Number of earlier slots of the period that belong to the same channel, [T]."""

    @property
    def period(self) -> int:
        """Slots in the table."""
        return len(self.channel_by_slot)

    def channels_of(self, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the channels of samples and their numbers in the channels, [n] each; all are numbered from 0."""
        periods, slots = np.divmod(positions, self.period)  # [n] each
        channels = self.channel_by_slot[slots]
        per_period = np.asarray(self.samples_per_period, dtype=np.int64)
        return channels, periods * per_period[channels] + self.ordinal_by_slot[slots]

    def sample_of(self, channel: int, number: int) -> int:
        """Return the sample that is number `number` of a channel: the inverse of `channels_of`."""
        periods, ordinal = divmod(number, self.samples_per_period[channel])
        slots = np.flatnonzero(self.channel_by_slot == channel)
        return periods * self.period + int(slots[ordinal])

    def counts(self, num_samples: int) -> tuple[int, ...]:
        """Count the first `num_samples` samples by channel."""
        # Whole periods by multiplication, the slots of the last one by counting.
        periods, slots = divmod(num_samples, self.period)
        begun = np.bincount(self.channel_by_slot[:slots], minlength=len(self.names)).tolist()
        return tuple(periods * full + part for full, part in zip(self.samples_per_period, begun, strict=True))


def make_blend(shares: Mapping[str, Fraction]) -> Blend:
    """Build the table. The order of `shares` numbers the channels but does not change the slots that each one gets.

    Raises:
        ValueError: A share is not positive, or they do not add up to 1.
    """
    if any(share <= 0 for share in shares.values()) or sum(shares.values()) != 1:
        raise ValueError(f"the shares of a blend must be positive and add up to 1, not {dict(shares)}")
    period = lcm(*(share.denominator for share in shares.values()))
    counts = _rounded(shares) if period > MAX_PERIOD else {name: int(share * period) for name, share in shares.items()}
    names = tuple(shares)
    channel_by_slot = np.array([names.index(name) for name in _schedule(counts)], dtype=np.int64)
    ordinal_by_slot = np.zeros_like(channel_by_slot)
    for channel in range(len(names)):
        slots = np.flatnonzero(channel_by_slot == channel)
        ordinal_by_slot[slots] = np.arange(len(slots))
    return Blend(
        names=names,
        samples_per_period=tuple(counts[name] for name in names),
        channel_by_slot=channel_by_slot,
        ordinal_by_slot=ordinal_by_slot,
    )


def _rounded(shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Round shares to whole numbers, none below one, that add up to `MAX_PERIOD`.

    The largest remainders are rounded up; ties are broken by name.
    """
    counts = {name: max(1, int(share * MAX_PERIOD)) for name, share in shares.items()}
    missing = MAX_PERIOD - sum(counts.values())
    by_need = sorted(shares, key=lambda name: (counts[name] - shares[name] * MAX_PERIOD, name))
    for name in by_need[: max(0, missing)]:
        counts[name] += 1
    for _ in range(-missing):  # many tiny shares were raised to one: the largest pay for them
        counts[max(counts, key=lambda name: (counts[name], name))] -= 1
    return counts


def _schedule(counts: Mapping[str, int]) -> list[str]:
    """Return one period of the table as channel names: of the samples that may come, the earliest deadline comes."""
    period = sum(counts.values())
    if len(counts) == 1:
        return list(counts) * period
    w = 2 * len(counts) - 2
    # For sample i of a channel: first slot in which it may come, last slot in which it must (both from 1), and its
    # channel. These are the bounds of the module's docstring, with s_c = count / period, in whole numbers.
    jobs = sorted(
        (-(-period * (1 + w * i) // (w * count)), period * (w - 1 + w * i) // (w * count) + 1, name)
        for name, count in counts.items()
        for i in range(count)
    )
    table: list[str] = []
    open_jobs: list[tuple[int, str]] = []
    released = 0
    for slot in range(1, period + 1):
        while released < period and jobs[released][0] <= slot:
            heapq.heappush(open_jobs, jobs[released][1:])
            released += 1
        deadline, name = heapq.heappop(open_jobs)
        assert slot <= deadline, f"slot {slot} of the blend {dict(counts)} came after its deadline {deadline}"
        table.append(name)
    return table
