"""The base classes of the events in `events.jsonl`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.run.field_types import Count, Seconds, Text


class Event(BaseModel):
    """Something that happened to a run."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, use_attribute_docstrings=True)

    time: Seconds = 0.0
    """Seconds since 1970; set when the event is written."""
    kind: Text
    """Kind of the event."""


class StepEvent(Event):
    """An event at a step of an attempt."""

    attempt: Count
    """Number of times that the line of steps had been rewound."""
    step: Count
    """Last finished step."""
    by: Literal["watch"] | None = None
    """Writer of the event; None for the trainer."""
    id: Text | None = None
    """Follows from the cause, so that a watcher that sees the cause again does not write the event twice."""
