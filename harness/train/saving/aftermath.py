"""Concludes a rollback once a checkpoint contains it: marks abandoned checkpoints, and journals the skipped samples."""

from __future__ import annotations

from harness.errors import CheckpointError, SaveFailedError
from harness.run.checkpoints.lineage import left_behind
from harness.run.order_file import RolledBack, append_to_journal, rollbacks_in_journal
from harness.train.run import Run
from harness.train.state import TrainState


def conclude_rollback(run: Run, state: TrainState) -> None:
    """Conclude a rollback after a save, on the writer. What the disk refuses is done after the next save.

    Checkpoints that the rollback left behind become `abandoned`. Until then the newer attempt is preferred anyway. The
    journal of the order gets the rollback too: a start from an older checkpoint skips the same samples, and does not
    repeat the rollback. A second call changes nothing.
    """
    if run.recorder is None or state.rollback is None or state.has_unsaved_rollback:
        return
    try:
        for entry in left_behind(run.store.list(), state.rollback):
            run.store.amend(entry, health="abandoned")
        done = RolledBack(state.rollback.command, state.cursor.skip_windows)
        if done not in rollbacks_in_journal(run.run_dir.order):
            append_to_journal(run.run_dir.order, [done])
    except OSError as error:
        run.recorder.message(f"warning: the rollback was not concluded: {error.strerror} ({error.filename})")
    except (CheckpointError, SaveFailedError) as error:
        run.recorder.message(f"warning: the rollback was not concluded: {error}")
