"""The results of the detector: verdicts, and the episodes that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]
Kind = Literal["benign", "drift", "suspect", "confirmed", "non-finite"]

TOTAL = "total"
"""The channel name of the loss over all channels."""
ALARMS: tuple[Kind, ...] = ("suspect", "confirmed", "non-finite")
"""Kinds of verdicts that are alarms."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One statement about one curve, made at the step that made it true."""

    kind: Kind
    """`suspect` (seen once; said again when the same episode returns or grows), `confirmed` (seen again), `benign`
    (gone by itself), `drift` (crept, or shifted after a resume), `non-finite`."""
    channel: str
    """A channel, or `TOTAL`."""
    direction: Direction
    step: int
    """The step at which it was made."""
    start: int
    """First step of the episode."""
    end: int
    """Last step so far at which the curve was off."""
    z: float
    """Largest size so far, in standard deviations of the noise; signed. 0 where the loss was not finite."""
    height: float
    """Largest distance from the forecast so far, in nats; signed. 0 where the loss was not finite."""


@dataclass(frozen=True, kw_only=True)
class OpenEpisode:
    """A curve that is off its baseline now, as the policy sees it at every step until it closes."""

    channel: str
    direction: Direction
    confirmed: bool
    start: int
    """First step of the episode."""
    end: int
    """Last step at which the curve was off."""
    peak_z: float
    """Largest size so far, signed."""
    recent_z: float
    """Median size of the last eight values, signed."""
