"""The checkpoints that the evidence of a run refers to: suspicious steps can be trained again from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.run.checkpoints.entries import Checkpoint, Entry, newest_first
from harness.run.evidence import evidence_files
from harness.run.paths import RunDir

MAX_EVIDENCE = 8
"""Number of the newest steps with evidence that keep a checkpoint. A run with many spikes must not fill the disk."""


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
