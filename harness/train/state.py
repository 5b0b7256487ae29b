"""What changes while a run trains, as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.data.order.cursor import Cursor
from harness.run.checkpoints.manifest import MAX_LOSSES, Adjustment, Manifest, Parent, RollbackRecord
from harness.run.order_changes import Change


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
    is_as_loaded: bool = False
    """Whether it is that of the checkpoint it was loaded from, though perhaps in a later attempt."""
    loaded_at_step: int | None = None
    """Step of the checkpoint that this launch loaded last, to begin with or to roll back; None if it loaded none."""
    save_problem: str | None = None
    """Why the last save of this launch failed, if it did."""
    num_failed_saves: int = 0
    """Saves that failed since one succeeded."""
    rollback: RollbackRecord | None = None
    """The last rollback on the way to this state."""
    adjustment: Adjustment | None = None
    """What a rollback changed for some steps."""

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint of exactly this state exists."""
        return self.is_as_loaded or self.saved == Parent(step=self.step, attempt=self.attempt)

    @property
    def owes_rollback(self) -> bool:
        """Whether no checkpoint knows of the last rollback yet: a crash now would undo it."""
        return self.rollback is not None and (self.saved is None or self.saved.attempt < self.rollback.attempt)

    def after_step(self, *, cursor: Cursor, learning_rate: float, loss: float) -> TrainState:
        """The state one step later."""
        losses = (*self.last_losses, (self.step + 1, loss))[-MAX_LOSSES:]
        adjustment = self.adjustment if self.adjustment and self.adjustment.until_step > self.step + 1 else None
        return replace(
            self,
            step=self.step + 1,
            is_as_loaded=False,
            cursor=cursor,
            learning_rate=learning_rate,
            last_losses=losses,
            adjustment=adjustment,
        )

    def after_save(
        self, path: Path | None, seconds: float, problem: str | None = None, *, of: TrainState | None = None
    ) -> TrainState:
        """The state after an attempt to save it (or `of`, an earlier one), which gave a checkpoint or a problem."""
        tried = replace(self, save_seconds=seconds, save_problem=problem)
        if path is None:
            return replace(tried, num_failed_saves=self.num_failed_saves + 1)
        source = of or self
        saved = Parent(step=source.step, attempt=source.attempt)
        return replace(tried, saved=saved, checkpoint=str(path), num_failed_saves=0)

    def skipping(self, windows: Iterable[tuple[int, int]]) -> TrainState:
        """The state with more samples never to be trained on from here on."""
        cursor = self.cursor
        for start, stop in windows:
            cursor = cursor.with_skip_window(start, stop)
        return replace(self, cursor=cursor)

    def with_changes(self, changes: Iterable[Change]) -> TrainState:
        """The state with further changes of the order at the positions that they name."""
        return replace(self, cursor=self.cursor.with_changes(changes))

    @staticmethod
    def from_checkpoint(path: Path, manifest: Manifest, *, attempt: int, is_as_loaded: bool = False) -> TrainState:
        """The state that a checkpoint holds, in the attempt that goes on from it.

        `is_as_loaded` if that is all, and nothing else is changed in it.
        """
        return TrainState(
            step=manifest.step,
            attempt=attempt,
            cursor=Cursor.from_json(manifest.cursor),
            learning_rate=manifest.learning_rate,
            last_losses=manifest.last_losses,
            checkpoint=str(path),
            is_as_loaded=is_as_loaded,
            loaded_at_step=manifest.step,
            saved=Parent(step=manifest.step, attempt=manifest.attempt),
            rollback=manifest.rollback,
            adjustment=manifest.adjustment,
        )
