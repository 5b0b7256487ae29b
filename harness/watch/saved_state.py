"""The state of the watcher between two looks, as one file that a kill at any moment leaves whole.

`watch/state.json` is written after every look that changed something. Between a command and the next writing the
watcher may die; it then sees the same lines again, comes to the same commands, and these have the same names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from harness.run.files import replace_file
from harness.run.follow import Mark
from harness.watch.policy import PastRollback

_FORMAT = 1


@dataclass(slots=True, kw_only=True)
class Examination:
    """Evidence that was asked for."""

    command: Annotated[str, Field(alias="order")]
    """Name of the command; `order` in the file."""
    first: int
    last: int
    """Steps that are examined."""
    start: int
    """First step of the episode; those before it are for comparison."""
    channel: str
    direction: str
    height: float


@dataclass(slots=True, kw_only=True)
class Alarm:
    """Steps in which something was strange."""

    start: int
    end: int


@dataclass(slots=True, kw_only=True)
class WatchState:
    """Everything the watcher knows of a run."""

    metrics: Mark = field(default_factory=Mark)
    events: Mark = field(default_factory=Mark)
    detector: str | None = None
    """State of the detector."""
    attempt: int = 0
    step: int = 0
    """Key of the last record seen."""
    resumed_after_step: int | None = None
    resumed: tuple[int, int] | None = None
    """Attempt and step that the newest launch went on from; records of earlier steps of that attempt are repeated."""
    attempt_to_await: int = 0
    """Records of earlier attempts are history: a rollback has been carried out since."""
    pending: str | None = None
    """Name of the rollback or stop that was ordered and not answered yet."""
    causes: dict[str, PastRollback] = field(default_factory=dict)
    """Rollbacks that were ordered, by the name of the command; those refused are taken out."""
    handled_starts: list[int] = field(default_factory=list)
    dirty_starts: list[int] = field(default_factory=list)
    examinations: list[Examination] = field(default_factory=list)
    """Evidence asked for and not there yet."""
    evidence: dict[str, str] = field(default_factory=dict)
    """Files of evidence by the name of the command that was asked for just before the watcher was killed."""
    alarms: list[Alarm] = field(default_factory=list)
    """Of the current line, oldest first."""
    exit_code: int | None = None
    """How the newest launch ended; None while it lives."""
    sent: dict[str, float] = field(default_factory=dict)
    """When an alert of a kind was last sent, in seconds since 1970."""
    held_back: dict[str, int] = field(default_factory=dict)
    """Alerts of a kind that were not sent since."""
    undelivered: list[str] = field(default_factory=list)
    """Texts that nobody has taken yet."""


_STATE = TypeAdapter(WatchState)


def load_state(path: Path) -> WatchState | None:
    """What was remembered; None where there is nothing, or nothing that this version can read."""
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            return None
        return _STATE.validate_python(document["memory"])
    except (OSError, ValueError, KeyError, ValidationError):
        return None


def save_state(path: Path, state: WatchState) -> None:
    """Replaces the file.

    Raises:
        OSError: From the disk; the old file is untouched.
    """
    text = json.dumps({"format": _FORMAT, "memory": _STATE.dump_python(state, by_alias=True)}, allow_nan=False)
    replace_file(path, text)
