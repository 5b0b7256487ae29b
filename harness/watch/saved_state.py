"""The state of the watcher between two looks, in one file that is whole even after a kill at any moment.

`watch/state.json` is written after every look that changed something. The watcher may die between a command and the
next writing. It then reads the same lines again and comes to the same commands, under the same names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from harness.json_text import parse_json
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
    """Everything that the watcher knows of a run."""

    metrics: Mark = field(default_factory=Mark)
    events: Mark = field(default_factory=Mark)
    detector: str | None = None
    """State of the detector."""
    attempt: int = 0
    step: int = 0
    """Key of the last record that was read: (attempt, step)."""
    resumed_after_step: int | None = None
    resumed: tuple[int, int] | None = None
    """Attempt and step from which the newest launch went on. Records up to there in this attempt are repetitions."""
    attempt_to_await: int = 0
    """Records of earlier attempts are history, because a rollback has been carried out since."""
    pending: str | None = None
    """Name of the command to roll back or to stop that was given and not answered yet."""
    causes: dict[str, PastRollback] = field(default_factory=dict)
    """Rollbacks for which a command was given, by its name. Refused ones are removed."""
    handled_starts: list[int] = field(default_factory=list)
    dirty_starts: list[int] = field(default_factory=list)
    examinations: list[Examination] = field(default_factory=list)
    """Evidence that was asked for and has not come yet."""
    evidence: dict[str, str] = field(default_factory=dict)
    """Evidence files by the name of the command, for commands that were given just before the watcher was killed."""
    alarms: list[Alarm] = field(default_factory=list)
    """Alarms of the current line, oldest first."""
    exit_code: int | None = None
    """Exit code of the newest launch; None while it runs."""
    sent: dict[str, float] = field(default_factory=dict)
    """Time of the last message of each kind, in seconds since 1970."""
    held_back: dict[str, int] = field(default_factory=dict)
    """Number of alerts of each kind that were not sent since then."""
    undelivered: list[str] = field(default_factory=list)
    """Messages that were not delivered yet."""


_STATE = TypeAdapter(WatchState)


def load_state(path: Path) -> WatchState | None:
    """Return the saved state; None if the file is missing, damaged or of another format."""
    try:
        document = parse_json(path.read_bytes())
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            return None
        return _STATE.validate_python(document["memory"])
    except (OSError, ValueError, KeyError, ValidationError):
        return None


def save_state(path: Path, state: WatchState) -> None:
    """Replace the file with the state.

    Raises:
        OSError: From the disk; the old file is untouched.
    """
    text = json.dumps({"format": _FORMAT, "memory": _STATE.dump_python(state, by_alias=True)}, allow_nan=False)
    replace_file(path, text)
