"""The folders of a run that are named like checkpoints: sound ones and broken ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.run.checkpoints.manifest import Manifest, manifest_or_problem
from harness.run.checkpoints.signature import SigningKey
from harness.run.paths import step_of

_NAME = re.compile(r"(step_[0-9]+)(?:\.([0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with a readable manifest. `verify` checks its files."""

    path: Path
    step: int
    copy: int
    """1 for the first save of a step, 2 for the next."""
    manifest: Manifest


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
    is_folder = path.is_dir() and not path.is_symlink()
    found = manifest_or_problem(path, key) if is_folder else "it is not a folder"
    if isinstance(found, Manifest) and found.step != step:
        found = f"the folder is named after step {step}, its manifest says step {found.step}"
    if isinstance(found, str):
        return BrokenCheckpoint(path=path, step=step, copy=copy, problem=found)
    return Checkpoint(path=path, step=step, copy=copy, manifest=found)
