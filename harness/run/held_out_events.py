"""The events about held-out losses: those before the first step, and what they became at the end of each phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.run.event_base import StepEvent
from harness.run.event_fields import Channels
from harness.run.field_types import Flag, Number, Text


class BaseLosses(StepEvent):
    """Held-out losses before the first step, with which later ones are compared."""

    kind: Literal["base-losses"] = "base-losses"
    losses: Mapping[Text, Number]
    """Loss of each channel in nats."""


class PhaseLosses(StepEvent):
    """Held-out losses at the end of a phase, and which channels became worse."""

    kind: Literal["phase-losses"] = "phase-losses"
    phase: Text
    """Name of the phase that has ended."""
    losses: Mapping[Text, Number]
    """Loss of each channel in nats."""
    since_base: Mapping[Text, Number] = {}
    """Rise of each loss since before the first step, in nats; below 0 where it fell."""
    before: Text | None = None
    """Name of the earlier phase whose end was measured last."""
    since_phase: Mapping[Text, Number] = {}
    """Rise of each loss since the end of that phase."""
    worse_than_base: Channels = ()
    """Channels whose loss is more than 0.01 nats above that before the first step, the worst first."""
    worse_than_phase: Channels = ()
    """The same, against the end of that phase."""
    other_length: Flag = False
    """True if samples had another length at one of the earlier evaluations, so that differences are not of the same
    samples."""
