"""Chooses the checkpoint that a run goes on from, and lists the newer ones that it does not use."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from harness.errors import CheckpointError
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint, Entry, entries_in, newest_first
from harness.run.checkpoints.manifest import Health
from harness.run.checkpoints.signature import SigningKey
from harness.run.checkpoints.verify import verify
from harness.run.files import UNREADABLE

Resume = Literal["auto", "must", "never"]
Inspect = Callable[[Path], str | None]
"""Returns an objection against a checkpoint that verifies, or None."""
AGAIN_AFTER_S = 1.0
Check = Callable[[Path], list[str]]
"""Returns the problems of a checkpoint, as `verify` does."""
Found = TypeVar("Found")
CLEAN_ONLY: tuple[Health, ...] = ("clean",)


class PassedOver(NamedTuple):
    """A folder that was examined and not chosen."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The checkpoint to resume from, and the newer folders that were passed over, newest first."""

    entry: Checkpoint | None
    passed_over: tuple[PassedOver, ...]


def choose(
    folder: Path,
    resume: Resume,
    check: Check,
    *,
    healths: Collection[Health] = CLEAN_ONLY,
    inspect: Inspect | None = None,
    key: SigningKey | None = None,
) -> Choice:
    """Return the newest checkpoint in a folder that verifies and has one of `healths`. Abandoned ones are never chosen.

    The newest is the one of the latest attempt, in it that of the highest step. `auto` starts anew only if there are no
    checkpoints, or only abandoned ones: losing all progress is for a person to decide. `never` looks at nothing.
    `inspect` may object to a checkpoint that verifies. With a key, only checkpoints that it has signed verify. One that
    cannot be read is tried again after a pause: a passing fault of the file system must not cost the steps since then.

    Raises:
        CheckpointError: `must` found none, or `auto` found some of which none can be used. Lists all with reasons.
    """
    if resume == "never":
        return Choice(entry=None, passed_over=())
    look = partial(_problem, check=check, inspect=inspect)
    choice, progress_would_be_lost = _search(folder, healths, key, look)
    if choice.entry is None and (progress_would_be_lost or resume == "must"):
        raise CheckpointError(_none_usable(folder, choice.passed_over))
    return choice


def newest_sound(folder: Path, *, deep: bool = True, key: SigningKey | None = None) -> Choice:
    """Return the newest checkpoint in a folder that verifies and is not abandoned, if there is one; raises nothing."""
    return _search(folder, ("clean", "suspect"), key, partial(_problem, check=partial(verify, deep=deep, key=key)))[0]


def _search(folder: Path, healths: Collection[Health], key: SigningKey | None, look: Inspect) -> tuple[Choice, bool]:
    """Search from the newest on. Return the choice, and whether a new beginning would lose progress in its place."""
    passed_over: list[PassedOver] = []
    progress_would_be_lost = False
    entries = _twice(lambda: entries_in(folder, key), _has_refused)
    for entry in newest_first(entries):
        if isinstance(entry, BrokenCheckpoint):
            passed_over.append(PassedOver(entry.path, entry.problem))
            progress_would_be_lost = True
            continue
        objection = _twice(partial(_objection, entry, healths, look), _is_refusal)
        if objection is None:
            return Choice(entry=entry, passed_over=tuple(passed_over)), False
        passed_over.append(PassedOver(entry.path, objection))
        progress_would_be_lost |= entry.manifest.health != "abandoned"
    return Choice(entry=None, passed_over=tuple(passed_over)), progress_would_be_lost


def _twice(look: Callable[[], Found], is_refused: Callable[[Found], bool]) -> Found:
    found = look()
    if not is_refused(found):
        return found
    time.sleep(AGAIN_AFTER_S)
    return look()


def _has_refused(entries: Sequence[Entry]) -> bool:
    return any(isinstance(entry, BrokenCheckpoint) and _is_refusal(entry.problem) for entry in entries)


def _is_refusal(objection: str | None) -> bool:
    return objection is not None and UNREADABLE in objection


def _objection(entry: Checkpoint, healths: Collection[Health], look: Inspect) -> str | None:
    health = entry.manifest.health
    if health == "abandoned" or health not in healths:
        return f"it is {health}"
    return look(entry.path)


def _problem(path: Path, *, check: Check, inspect: Inspect | None = None) -> str | None:
    """Return why a checkpoint cannot be used, or None."""
    problems = check(path)
    if not problems:
        return None if inspect is None else inspect(path)
    return "; ".join(problems[:3] + ([f"{len(problems) - 3} more problems"] if len(problems) > 3 else []))


def _none_usable(folder: Path, passed_over: Sequence[PassedOver]) -> str:
    if not passed_over:
        return f"There is no checkpoint in {folder}. Give --resume auto to start anew."
    lines = "\n".join(f"  {path.name}: {reason}" for path, reason in passed_over)
    return (
        f"No checkpoint in {folder} can be resumed from:\n{lines}\n"
        "Restore one of them, or give --resume never to start anew."
    )
