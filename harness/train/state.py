"""The changing state of a run in training, as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.data.order.cursor import Cursor
from harness.run.checkpoints.for_export import longest_seq_length
from harness.run.checkpoints.manifest import MAX_LOSSES, Adjustment, HeldOutLosses, Manifest, Parent, RollbackRecord
from harness.run.order_changes import Change


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A run between two steps. Equal on every rank."""

    step: int = 0
    """Last finished step; 0 before the first."""
    attempt: int = 0
    """Number of times that the run was rewound."""
    cursor: Cursor = Cursor()
    """Position at which the next step's samples begin."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    last_losses: tuple[tuple[int, float], ...] = ()
    """(step, loss) of the last steps, oldest first."""
    saved: Parent | None = None
    """The checkpoint from which this state goes on: the last one that was saved or loaded."""
    checkpoint: str | None = None
    """Path of that checkpoint."""
    save_seconds: float | None = None
    """Duration of the last save of this launch."""
    is_as_loaded: bool = False
    """True if the state is that of the checkpoint from which it was loaded, perhaps in a later attempt."""
    loaded_at_step: int | None = None
    """Step of the checkpoint that this launch loaded last, at its start or in a rollback; None if it loaded none."""
    save_problem: str | None = None
    """Reason why the last save of this launch failed, or None."""
    num_failed_saves: int = 0
    """Number of failed saves since the last success."""
    rollback: RollbackRecord | None = None
    """The last rollback on the way to this state."""
    adjustment: Adjustment | None = None
    """Change of the optimizer by a rollback for some steps."""
    has_made_no_step: bool = False
    """True if no step of this run led to the weights: they are initial ones, converted ones, or a mean."""
    base_losses: HeldOutLosses | None = None
    """Held-out losses before the first step; None if they were not measured."""
    phase_losses: HeldOutLosses | None = None
    """Held-out losses at the end of the last phase; None if they were not measured."""
    longest_seq_length: int = 0
    """Tokens of the longest sequences on the way to this state, also before a conversion or a mean."""

    @property
    def is_saved(self) -> bool:
        """Return whether a checkpoint of exactly this state exists."""
        return self.is_as_loaded or self.saved == Parent(step=self.step, attempt=self.attempt)

    @property
    def has_unsaved_rollback(self) -> bool:
        """Return whether no checkpoint contains the last rollback yet, so that a crash now would undo it."""
        return self.rollback is not None and (self.saved is None or self.saved.attempt < self.rollback.attempt)

    def after_step(self, *, cursor: Cursor, learning_rate: float, loss: float) -> TrainState:
        """Return the state one step later."""
        losses = (*self.last_losses, (self.step + 1, loss))[-MAX_LOSSES:]
        adjustment = self.adjustment if self.adjustment and self.adjustment.until_step > self.step + 1 else None
        return replace(
            self,
            step=self.step + 1,
            is_as_loaded=False,
            has_made_no_step=False,
            cursor=cursor,
            learning_rate=learning_rate,
            last_losses=losses,
            adjustment=adjustment,
            longest_seq_length=max(self.longest_seq_length, _tokens_per_sample(self.cursor, cursor)),
        )

    def after_save(
        self, path: Path | None, seconds: float, problem: str | None = None, *, of: TrainState | None = None
    ) -> TrainState:
        """Return the state after a save of it (or of `of`, an earlier one), which gave a checkpoint or a problem."""
        tried = replace(self, save_seconds=seconds, save_problem=problem)
        if path is None:
            return replace(tried, num_failed_saves=self.num_failed_saves + 1)
        source = of or self
        saved = Parent(step=source.step, attempt=source.attempt)
        return replace(tried, saved=saved, checkpoint=str(path), num_failed_saves=0)

    def skipping(self, windows: Iterable[tuple[int, int]]) -> TrainState:
        """Return the state with further windows of samples to skip from here on."""
        cursor = self.cursor
        for start, stop in windows:
            cursor = cursor.with_skip_window(start, stop)
        return replace(self, cursor=cursor)

    def with_changes(self, changes: Iterable[Change]) -> TrainState:
        """Return the state with further changes of the data order, at the positions that they name."""
        return replace(self, cursor=self.cursor.with_changes(changes))

    @staticmethod
    def from_checkpoint(path: Path, manifest: Manifest, *, attempt: int, is_as_loaded: bool = False) -> TrainState:
        """Return the state in a checkpoint, in the attempt that goes on from it.

        `is_as_loaded` if nothing in it is changed afterwards.
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
            has_made_no_step=not manifest.optimizer_norms,  # weights only: converted, or a mean
            base_losses=manifest.base_losses,
            phase_losses=manifest.phase_losses,
            longest_seq_length=longest_seq_length(manifest) or 0,
        )


def _tokens_per_sample(before: Cursor, after: Cursor) -> int:
    samples = after.consumed_samples - before.consumed_samples
    return (after.consumed_tokens - before.consumed_tokens) // samples if samples else 0
