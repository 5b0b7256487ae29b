"""What changes while a run trains, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.checkpoint.manifest import MAX_LOSSES, Manifest, Parent
from harness.data.cursor import Cursor


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A run between two steps. Equal on every rank."""

    step: int = 0
    """Last finished step; 0 before the first."""
    attempt: int = 0
    """How often the step line was rewound."""
    cursor: Cursor = Cursor()
    """Where the next step's samples begin."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    last_losses: tuple[tuple[int, float], ...] = ()
    """(step, loss) of the last steps, oldest first."""
    saved: Parent | None = None
    """The checkpoint that this state goes on from: the last one saved or loaded."""
    checkpoint: str | None = None
    """Path of that checkpoint."""
    save_seconds: float | None = None
    """How long the last save of this launch took."""
    num_failed_saves: int = 0
    """Saves that failed since one succeeded."""

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint of exactly this state exists."""
        return self.saved == Parent(step=self.step, attempt=self.attempt)

    def after_step(self, *, cursor: Cursor, learning_rate: float, loss: float) -> TrainState:
        """The state one step later."""
        losses = (*self.last_losses, (self.step + 1, loss))[-MAX_LOSSES:]
        return replace(self, step=self.step + 1, cursor=cursor, learning_rate=learning_rate, last_losses=losses)

    def after_save(self, path: Path | None, seconds: float) -> TrainState:
        """The state after an attempt to save it, which gave a checkpoint or None."""
        if path is None:
            return replace(self, save_seconds=seconds, num_failed_saves=self.num_failed_saves + 1)
        saved = Parent(step=self.step, attempt=self.attempt)
        return replace(self, saved=saved, checkpoint=str(path), save_seconds=seconds, num_failed_saves=0)

    @staticmethod
    def from_checkpoint(path: Path, manifest: Manifest, *, attempt: int) -> TrainState:
        """The state that a checkpoint holds, in the attempt that goes on from it."""
        return TrainState(
            step=manifest.step,
            attempt=attempt,
            cursor=Cursor.from_json(manifest.cursor),
            learning_rate=manifest.learning_rate,
            last_losses=manifest.last_losses,
            checkpoint=str(path),
            saved=Parent(step=manifest.step, attempt=manifest.attempt),
        )
