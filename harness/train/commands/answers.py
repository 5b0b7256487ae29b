"""Carries out the orders after which training simply goes on: evidence, marks on checkpoints, documents left out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import SaveFailedError
from harness.run.checkpoints.entries import Checkpoint
from harness.run.commands.command import Order
from harness.run.commands.mark import MarkRequest
from harness.train.commands.documents import quarantine_documents
from harness.train.commands.reexamine import reexamine
from harness.train.run import Run
from harness.train.state import TrainState


def answer(run: Run, state: TrainState, orders: Sequence[Order]) -> TrainState:
    """Answers what is asked of the run as it is now, and returns its state. Every rank must call it."""
    for order in orders:
        if order.evidence is not None:
            reexamine(run, state, order)
        if order.mark is not None and run.ranks.is_writer:
            _mark(run, state, order.mark, order.source)
        if order.quarantine is not None:
            state = quarantine_documents(run, state, order.quarantine, order)
    return state


def _mark(run: Run, state: TrainState, request: MarkRequest, source: str) -> None:
    """Enters a health into manifests. What was abandoned stays so, and what is gone was pruned."""
    assert run.recorder is not None, "the writer has a recorder"
    named = [
        entry for entry in run.store.list() if isinstance(entry, Checkpoint) and entry.path.name in request.checkpoints
    ]
    marked = []
    for entry in named:
        if entry.manifest.health in ("abandoned", request.health):
            continue
        try:
            run.store.amend(entry, health=request.health)
        except SaveFailedError as error:
            run.recorder.message(f"warning: {error}")
        else:
            marked.append(entry.path.name)
    if marked:
        run.recorder.event(
            f"marked-{request.health}", attempt=state.attempt, step=state.step, checkpoints=marked, order=source
        )
