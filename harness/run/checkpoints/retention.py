"""Decides which checkpoints may be removed: a pure function of the checkpoints, the policy, and those in use.

In use are those that the evidence of a run refers to: suspicious steps can be trained again from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.run.checkpoints.entries import Checkpoint, Entry, newest_first
from harness.run.evidence import evidence_files
from harness.run.paths import RunDir

MAX_EVIDENCE = 8
"""Number of the newest steps with evidence that keep a checkpoint. A run with many spikes must not fill the disk."""


@dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Rules for checkpoints to keep, besides the pinned ones, the newest clean one and those in use."""

    keep_last: int
    """Number of the newest checkpoints to keep, without abandoned ones; at least 1."""
    keep_every_steps: int | None = None
    """Checkpoints of steps that this divides are kept for good."""


def to_delete(entries: Iterable[Entry], policy: RetentionPolicy, in_use: Collection[Path] = ()) -> list[Checkpoint]:
    """Return the checkpoints that may be removed, oldest first.

    `in_use` holds folders that something refers to: the checkpoint that the run was resumed from, those that evidence
    names. A broken folder is never removed, because a person may still restore it. Without a clean checkpoint nothing
    is removed.
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


def evidence_steps(run_dir: RunDir) -> list[int]:
    """Return the steps with an evidence file, newest first, at most `MAX_EVIDENCE`."""
    return list(dict.fromkeys(step for step, _ in evidence_files(run_dir)))[:MAX_EVIDENCE]


def before_steps(entries: Iterable[Entry], steps: Iterable[int]) -> set[Path]:
    """Return for each of the steps the newest checkpoint of an earlier step, from which training would reach it."""
    living = [
        entry
        for entry in newest_first(entries)
        if isinstance(entry, Checkpoint) and entry.manifest.health != "abandoned"
    ]
    found = (next((entry.path for entry in living if entry.step < step), None) for step in steps)
    return {path for path in found if path is not None}
