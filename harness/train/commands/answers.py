"""Carries out the commands after which training just goes on: evidence, marks on checkpoints, quarantined documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from harness.errors import CheckpointError, SaveFailedError
from harness.metrics.recorder import Recorder
from harness.run.checkpoints.entries import Checkpoint
from harness.run.commands import requests
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.event_types import Marked
from harness.train.commands.documents import quarantine_documents
from harness.train.commands.reexamine import reexamine
from harness.train.run import Run
from harness.train.state import TrainState

Answer = Callable[[Run, TrainState, Command], TrainState]


def answer(run: Run, state: TrainState, commands: Sequence[Command]) -> TrainState:
    """Carry out the commands that do not interrupt training, and return the state. Every rank must call it."""
    for command in commands:
        if (carry_out := _ANSWERS.get(command.kind)) is not None:
            state = carry_out(run, state, command)
    return state


def _mark(run: Run, state: TrainState, command: Command) -> TrainState:
    """Enter a health into manifests. Abandoned checkpoints stay abandoned, and pruned ones are ignored."""
    request = command.request
    assert isinstance(request, requests.Mark), "the table has the kind"
    if run.recorder is not None:
        run.desk.hand(partial(_enter_health, run, run.recorder, state, command.source, request))
    return state


def _enter_health(run: Run, recorder: Recorder, state: TrainState, source: str, request: requests.Mark) -> None:
    named = [
        entry for entry in run.store.list() if isinstance(entry, Checkpoint) and entry.path.name in request.checkpoints
    ]
    marked = []
    for entry in named:
        if entry.manifest.health in ("abandoned", request.health):
            continue
        try:
            run.store.amend(entry, health=request.health)
        except (CheckpointError, SaveFailedError) as error:
            recorder.message(f"warning: {error}")
        else:
            marked.append(entry.path.name)
    if marked:
        kinds: dict[str, Literal["marked-clean", "marked-suspect"]]
        kinds = {"clean": "marked-clean", "suspect": "marked-suspect"}
        recorder.event(
            Marked(
                kind=kinds[request.health],
                attempt=state.attempt,
                step=state.step,
                checkpoints=tuple(marked),
                command=source,
            )
        )


_ANSWERS: dict[CommandKind, Answer] = {
    CommandKind.EVIDENCE: reexamine,
    CommandKind.MARK: _mark,
    CommandKind.QUARANTINE: quarantine_documents,
}
"""The function that carries out each kind. `harness.train.decide` decides about those that interrupt training."""
