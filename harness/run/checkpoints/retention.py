"""Which checkpoints may be removed: a pure function of what there is and what is to be kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.run.checkpoints.entries import Checkpoint, Entry, newest_first


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """What is kept beside the pinned, the newest clean one and those in use."""

    keep_last: int
    """The newest so many that were not abandoned; at least 1."""
    keep_every_steps: int | None = None
    """Those of every so many steps are kept for good."""


def to_delete(entries: Iterable[Entry], policy: RetentionPolicy, in_use: Collection[Path] = ()) -> list[Checkpoint]:
    """What may be removed, oldest first.

    `in_use` holds folders that something refers to: what the run was resumed from, what evidence names. A broken
    folder is never in the answer (a person may still restore it), and without a clean checkpoint nothing is.
    """
    assert policy.keep_last >= 1, f"keep_last is {policy.keep_last}, at least 1 must stay"
    ordered = [entry for entry in newest_first(entries) if isinstance(entry, Checkpoint)]
    living = [entry for entry in ordered if entry.manifest.health != "abandoned"]
    clean = [entry for entry in living if entry.manifest.health == "clean"]
    if not clean:
        return []
    kept = {entry.path for entry in (*living[: policy.keep_last], clean[0])} | set(in_use)
    kept |= {entry.path for entry in ordered if entry.manifest.pinned}
    if policy.keep_every_steps is not None:
        kept |= {entry.path for entry in living if entry.step % policy.keep_every_steps == 0}
    return [entry for entry in reversed(ordered) if entry.path not in kept]
