"""The checkpoints that the evidence of a run refers to: suspicious steps can be trained again from them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harness.run.checkpoints.entries import Checkpoint, Entry, newest_first
from harness.run.paths import RunDir, step_of

MAX_EVIDENCE = 8
"""Number of the newest evidence files that keep a checkpoint. A run with many spikes must not fill the disk."""


def evidence_steps(run_dir: RunDir) -> list[int]:
    """Return the steps with an evidence file, newest first, at most `MAX_EVIDENCE`."""
    names: list[str] = []
    with suppress(OSError):
        names = [path.stem for path in run_dir.evidence_folder.iterdir() if path.suffix == ".jsonl"]
    return sorted((step for name in names if (step := step_of(name)) is not None), reverse=True)[:MAX_EVIDENCE]


def before_steps(entries: Iterable[Entry], steps: Iterable[int]) -> set[Path]:
    """Return for each of the steps the newest checkpoint of an earlier step, from which training would reach it."""
    living = [
        entry
        for entry in newest_first(entries)
        if isinstance(entry, Checkpoint) and entry.manifest.health != "abandoned"
    ]
    found = (next((entry.path for entry in living if entry.step < step), None) for step in steps)
    return {path for path in found if path is not None}
