"""The state of a run, from step to step and through a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.data.order.cursor import Cursor
from harness.plan.layouts import Layout
from harness.run.checkpoints.manifest import MAX_LOSSES, Manifest, Parent, RollbackRecord, Versions
from harness.train.state import TrainState


def after_steps(state: TrainState, num_steps: int) -> TrainState:
    for step in range(state.step + 1, state.step + num_steps + 1):
        cursor = state.cursor.take(4, 16)[1]
        state = state.after_step(cursor=cursor, learning_rate=step / 100, loss=1 / step)
    return state


def test_a_step_moves_step_cursor_rate_and_losses() -> None:
    state = after_steps(TrainState(), 2)
    assert (state.step, state.attempt, state.learning_rate) == (2, 0, 0.02)
    assert (state.cursor.consumed_samples, state.cursor.consumed_tokens) == (8, 128)
    assert state.last_losses == ((1, 1.0), (2, 0.5))


def test_only_the_last_losses_are_kept() -> None:
    state = after_steps(TrainState(), MAX_LOSSES + 3)
    assert [step for step, _ in state.last_losses] == list(range(4, MAX_LOSSES + 4))


def test_a_save_holds_until_the_next_step() -> None:
    state = after_steps(TrainState(attempt=2), 3)
    assert not state.is_saved
    saved = state.after_save(Path("/runs/x/checkpoints/step_0000003"), 1.5)
    assert saved.is_saved
    assert (saved.saved, saved.checkpoint) == (Parent(step=3, attempt=2), "/runs/x/checkpoints/step_0000003")
    assert (saved.save_seconds, saved.num_failed_saves) == (1.5, 0)
    later = after_steps(saved, 1)
    assert not later.is_saved
    assert later.saved == Parent(step=3, attempt=2)


def test_failed_saves_are_counted_until_one_succeeds() -> None:
    saved = after_steps(TrainState(), 1).after_save(Path("a"), 1.0)
    failed = after_steps(saved, 1).after_save(None, 0.5).after_save(None, 0.5)
    assert (failed.num_failed_saves, failed.is_saved) == (2, False)
    assert (failed.saved, failed.checkpoint) == (saved.saved, saved.checkpoint)
    assert failed.after_save(Path("b"), 1.0).num_failed_saves == 0


def test_the_same_step_of_another_attempt_is_not_saved() -> None:
    assert not TrainState(step=3, attempt=1, saved=Parent(step=3, attempt=0)).is_saved


def test_a_rollback_is_owed_until_a_checkpoint_knows_of_it() -> None:
    record = RollbackRecord(order="x", from_step=8, to_step=4, attempt=2, reason="")
    before = TrainState(step=4, attempt=2, saved=Parent(step=4, attempt=1))
    assert not before.has_unsaved_rollback
    rolled_back = replace(before, rollback=record)
    assert rolled_back.has_unsaved_rollback
    unsaved = after_steps(rolled_back.after_save(None, 0.5), 2)
    assert unsaved.has_unsaved_rollback
    saved = unsaved.after_save(Path("a"), 1.0)
    assert not saved.has_unsaved_rollback
    assert after_steps(saved, 3).rollback == record
    assert not after_steps(unsaved, 3).after_save(Path("a"), 1.0, of=unsaved).has_unsaved_rollback


def test_a_checkpoint_gives_the_state_back() -> None:
    state = after_steps(TrainState(), 3)
    manifest = Manifest(
        step=state.step,
        attempt=state.attempt,
        parent=None,
        health="clean",
        config_hash="0" * 16,
        versions=Versions(harness="0", megatron_core="0", torch="0", python="0"),
        layout=Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=1),
        consumed_samples=state.cursor.consumed_samples,
        consumed_tokens=state.cursor.consumed_tokens,
        learning_rate=state.learning_rate,
        next_batch_hash=None,
        saved_at=datetime(2026, 1, 1, tzinfo=UTC),
        save_seconds=1.0,
        cursor=state.cursor.to_json(),
        optimizer_norms={},
        last_losses=state.last_losses,
        fingerprint={},
    )
    restored = TrainState.from_checkpoint(Path("step_0000003"), manifest, attempt=1)
    assert (restored.step, restored.attempt, restored.cursor) == (3, 1, state.cursor)
    assert (restored.learning_rate, restored.last_losses) == (state.learning_rate, state.last_losses)
    assert (restored.saved, restored.checkpoint) == (Parent(step=3, attempt=0), "step_0000003")
    assert restored.save_seconds is None
    assert Cursor.from_json(manifest.cursor) == state.cursor
