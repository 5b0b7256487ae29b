"""What follows a rollback once a checkpoint knows of it: what it left is marked, what it skips is written down."""

from __future__ import annotations

from harness.errors import CheckpointError, SaveFailedError
from harness.run.checkpoints.lineage import left_behind
from harness.run.order_file import RolledBack, append_to_journal, rollbacks_in_journal
from harness.train.run import Run
from harness.train.state import TrainState


def conclude_rollback(run: Run, state: TrainState) -> None:
    """After a save, on the writer. What the disk refuses is done after the next save; done twice, it changes nothing.

    Checkpoints that the rollback left behind become `abandoned`; until then the newer attempt wins all the same. Then
    the journal of the order has it: a start from an older checkpoint skips the same, and does not repeat it.
    """
    if run.recorder is None or state.rollback is None or state.owes_rollback:
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
