"""The folders of a run that are named like checkpoints: sound ones and broken ones.

A link to a folder counts as that folder, wherever it lies: a checkpoint that was moved away and linked back is still
one of the run, and so is one that is linked from another run.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.run.checkpoints.manifest import Manifest, manifest_or_problem
from harness.run.checkpoints.signature import SigningKey
from harness.run.files import refusal
from harness.run.paths import RunDir, step_of

_NAME = re.compile(r"(step_[0-9]+)(?:\.([0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with a readable manifest. `verify` checks its files."""

    path: Path
    step: int
    copy: int
    """1 for the first save of a step, 2 for the next."""
    manifest: Manifest
    links_to: Path | None = None
    """The folder itself, where the run has only a link to it. What removes the checkpoint removes the link."""
    other_run: Path | None = None
    """The run directory in which that folder is a checkpoint, if that is another run. Only that run amends it."""


@dataclass(frozen=True, kw_only=True)
class BrokenCheckpoint:
    """A folder that is named like a checkpoint and is not a usable one."""

    path: Path
    step: int
    copy: int
    problem: str


Entry = Checkpoint | BrokenCheckpoint


def entries_in(folder: Path, key: SigningKey | None = None) -> list[Entry]:
    """Return every folder named like a checkpoint, by step. Reads manifests, not files; changes nothing.

    With a key, a checkpoint that it has not signed is broken.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    entries = [entry for path in paths if (entry := entry_at(path, key)) is not None]
    return sorted(entries, key=lambda entry: (entry.step, entry.copy))


def newest_first(entries: Iterable[Entry]) -> list[Entry]:
    """Sort checkpoints: the latest attempt first, in it the highest step.

    A folder without a readable manifest counts as of the latest attempt, so that it is named among the newest. Times
    are not used, because clocks differ between machines and may go back.
    """
    ordered = list(entries)
    latest = max((entry.manifest.attempt for entry in ordered if isinstance(entry, Checkpoint)), default=0)

    def age(entry: Entry) -> tuple[int, int, int]:
        attempt = entry.manifest.attempt if isinstance(entry, Checkpoint) else latest
        return attempt, entry.step, entry.copy

    return sorted(ordered, key=age, reverse=True)


def entry_at(path: Path, key: SigningKey | None = None) -> Entry | None:
    """Return the checkpoint in a folder, sound or broken; None if the folder is not named like one."""
    match = _NAME.fullmatch(path.name)
    step = step_of(match[1]) if match else None
    if match is None or step is None:
        return None
    copy = int(match[2] or 1)
    found = _folder_problem(path) or manifest_or_problem(path, key)
    if isinstance(found, Manifest) and found.step != step:
        found = f"the folder is named after step {step}, its manifest says step {found.step}"
    if isinstance(found, str):
        return BrokenCheckpoint(path=path, step=step, copy=copy, problem=found)
    folder = path.resolve() if path.is_symlink() else None
    other = None if folder is None else _run_of(folder, besides=path.parent)
    return Checkpoint(path=path, step=step, copy=copy, manifest=found, links_to=folder, other_run=other)


def _folder_problem(path: Path) -> str | None:
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else "it is not a folder"
    except OSError as error:
        return f"it {refusal(path, error)}"


def _run_of(folder: Path, *, besides: Path) -> Path | None:
    """Return the run directory whose checkpoint a folder is, unless that is the run with the checkpoints `besides`."""
    run = RunDir(folder.parent.parent)
    if folder.parent != run.checkpoints or folder.parent == besides.resolve() or not run.config.is_file():
        return None
    return run.root
