"""The run's checkpoints as the watcher sees them: name, step and health, read from manifests and never written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from harness.run.checkpoints.entries import Checkpoint, entry_at
from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.run.paths import RunDir
from harness.watch.policy import KnownCheckpoint


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint(KnownCheckpoint):
    """A checkpoint on disk."""

    name: str
    """Name of its folder."""


@dataclass
class SavedCheckpoints:
    """Lists the checkpoints of a run; a manifest is read again only when it has changed."""

    run_dir: RunDir
    _read: dict[tuple[str, int, int], SavedCheckpoint | None] = field(default_factory=dict)
    """Checkpoint by name, and time of change and inode of its manifest; None for a folder that is not a checkpoint."""

    def list(self) -> tuple[SavedCheckpoint, ...]:
        """Return all usable checkpoints that were not abandoned, by rising step."""
        found: dict[tuple[str, int, int], SavedCheckpoint | None] = {}
        for path in self.run_dir.checkpoints.glob(f"step_*/{MANIFEST_NAME}"):
            try:
                status = path.stat()
            except OSError:  # pruned in this moment
                continue
            key = (path.parent.name, status.st_mtime_ns, status.st_ino)
            found[key] = self._read[key] if key in self._read else _read_entry(path.parent)
        self._read = found
        living = (each for each in found.values() if each is not None and each.health != "abandoned")
        return tuple(sorted(living, key=lambda each: (each.step, each.name)))


def _read_entry(folder: Path) -> SavedCheckpoint | None:
    entry = entry_at(folder)
    if not isinstance(entry, Checkpoint):
        return None
    return SavedCheckpoint(name=folder.name, step=entry.step, health=entry.manifest.health)
