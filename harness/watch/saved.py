"""The run's checkpoints as the watcher sees them: name, step and health, read from manifests and never written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from harness.run.paths import RunDir
from harness.watch.policy import Health, KnownCheckpoint

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint(KnownCheckpoint):
    """A checkpoint on disk."""

    name: str
    """Of its folder."""


@dataclass
class SavedCheckpoints:
    """Lists the checkpoints of a run; a manifest is read again only when it has changed."""

    run_dir: RunDir
    _read: dict[tuple[str, int, int], SavedCheckpoint | None] = field(default_factory=dict)
    """By name, and time of change and inode of the manifest; None where it is no checkpoint."""

    def list(self) -> tuple[SavedCheckpoint, ...]:
        """All that are whole and were not abandoned, by rising step."""
        found: dict[tuple[str, int, int], SavedCheckpoint | None] = {}
        for path in self.run_dir.checkpoints.glob(f"step_*/{MANIFEST}"):
            try:
                status = path.stat()
            except OSError:  # pruned in this moment
                continue
            key = (path.parent.name, status.st_mtime_ns, status.st_ino)
            found[key] = self._read[key] if key in self._read else _read_manifest(path)
        self._read = found
        living = (each for each in found.values() if each is not None and each.health != "abandoned")
        return tuple(sorted(living, key=lambda each: (each.step, each.name)))


def _read_manifest(path: Path) -> SavedCheckpoint | None:
    if path.parent.name.endswith((".partial", ".removed")):
        return None
    try:
        manifest = json.loads(path.read_bytes())
        step, health = manifest["step"], manifest["health"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if type(step) is not int or health not in get_args(Health):
        return None
    return SavedCheckpoint(name=path.parent.name, step=step, health=health)
