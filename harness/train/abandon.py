"""Checkpoints that a rollback has left behind: nothing goes on from them any more."""

from __future__ import annotations

from harness.checkpoint.lineage import left_behind
from harness.errors import SaveFailedError
from harness.train.run import Run
from harness.train.state import TrainState


def abandon_left_behind(run: Run, state: TrainState) -> None:
    """On the writer, once a checkpoint knows of the last rollback: marks what it left behind as abandoned.

    What the disk refuses now is marked after the next save. Until then the newer attempt wins all the same.
    """
    if run.recorder is None or state.rollback is None or state.owes_rollback:
        return
    try:
        for entry in left_behind(run.store.list(), state.rollback):
            run.store.amend(entry, health="abandoned")
    except OSError as error:
        run.recorder.message(f"warning: no checkpoint was marked as abandoned: {error.strerror} ({error.filename})")
    except SaveFailedError as error:
        run.recorder.message(f"warning: {error}")
