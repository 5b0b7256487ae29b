"""The state of the watcher between two looks, in one file that is whole even after a kill at any moment.

`watch/state.json` is written after every look that changed something. The watcher may die between a command and the
next writing. It then reads the same lines again and comes to the same commands, under the same names.

A state that is damaged is not believed: the watcher begins anew, with the metrics and the events from their start. They
hold what must not be forgotten: the rollbacks so far, which count against the budget, and the ids of its own events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from harness.run.field_types import reason_in_words
from harness.run.files import replace_file
from harness.run.follow import Mark
from harness.run.small_files import read_json_file
from harness.watch.detector import Detector
from harness.watch.policy import PastRollback
from harness.watch.routers import RouterState

_FORMAT = 2
_MOST_BYTES = 1024**3
"""A channel takes 5 KiB."""
_ASIDE_SUFFIX = ".unusable"


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
    routers: RouterState = field(default_factory=RouterState)
    exit_code: int | None = None
    """Exit code of the newest launch; None while it runs."""


_STATE = TypeAdapter(WatchState)


class LostStateError(ValueError):
    """The saved state is damaged, or another version's. The text completes "the state …"."""


def load_state(path: Path) -> WatchState | None:
    """Return the state that was saved; None if no file is there.

    Raises:
        LostStateError: There is one, and it cannot be used.
    """
    try:
        document = read_json_file(path, _MOST_BYTES)
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise LostStateError(f"is not of format {_FORMAT}")  # noqa: TRY301 (one place for all reasons)
        memory = json.dumps(document.get("memory"))
        if document.get("digest") != _digest(memory):
            raise LostStateError("has changed since it was written")  # noqa: TRY301
        state = _STATE.validate_json(memory, strict=True)
        if state.detector is not None:
            Detector().restore(state.detector)
    except FileNotFoundError:
        return None
    except LostStateError:
        raise
    except (OSError, ValueError) as error:
        raise LostStateError(f"cannot be read: {reason_in_words(error)}") from error
    return state


def put_aside(path: Path) -> Path:
    """Rename a state that cannot be used, in place of an earlier one, and return its new name.

    Raises:
        OSError: From the disk.
    """
    return path.replace(path.with_name(path.name + _ASIDE_SUFFIX))


def save_state(path: Path, state: WatchState) -> None:
    """Replace the file with the state.

    Raises:
        OSError: From the disk; the old file is untouched.
    """
    memory = json.dumps(_STATE.dump_python(state, by_alias=True), allow_nan=False)
    replace_file(path, f'{{"format": {_FORMAT}, "digest": "{_digest(memory)}", "memory": {memory}}}\n')


def _digest(memory: str) -> str:
    """Return the checksum of the state as it stands in the file: a flipped bit may leave it valid JSON."""
    return blake2b(memory.encode(), digest_size=16).hexdigest()
