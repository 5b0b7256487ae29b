"""Computes the losses of the samples of earlier steps again, with the current weights, and writes them as evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness.data.order.cursor import Cursor, Positions
from harness.data.signs import text_signs
from harness.errors import DataError, HarnessError
from harness.parallel import collectives
from harness.run.checkpoints.lineage import line_of
from harness.run.commands import requests
from harness.run.commands.command import Command
from harness.run.event_types import Evidence, EvidenceRefused
from harness.run.evidence import write_evidence
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.steps.blame import Sums, as_evidence, own_losses, with_provenance


def reexamine(run: Run, state: TrainState, command: Command) -> TrainState:
    """Carry out a command for evidence. Every rank must call it; the state is returned as it is.

    A command that cannot be carried out is reported and changes nothing.
    """
    assert isinstance(command.request, requests.Evidence), "the table has the kind"
    first, last = command.request.steps
    run.settle()
    cursor = collectives.from_rank_0(_beginning(run, state, first, last) if run.ranks.is_writer else "")
    if isinstance(cursor, str):
        return _refused(run, state, command, cursor)
    steps: dict[int, int] = {}
    own: Sums = {}
    for step in range(first, last + 1):
        positions, behind = run.data.stream.take(cursor)
        own |= _own_sums(run, cursor, positions)
        steps |= dict.fromkeys(positions.tolist(), step)
        cursor = behind.passed(state.cursor.history)
    totals = _added(collectives.gathered(own))
    if run.recorder is None:
        return state
    try:
        lines = with_provenance(run, _lines(run, state.cursor, steps, totals))
        path = run.desk.do(lambda: write_evidence(run.run_dir, last, lines))
    except (OSError, HarnessError) as error:
        return _refused(run, state, command, str(error))
    evidence = Evidence(
        attempt=state.attempt, step=state.step, steps=(first, last), path=str(path), command=command.source
    )
    run.announce(f"evidence of steps {first} to {last} is in {path}", evidence)
    return state


def _beginning(run: Run, state: TrainState, first: int, last: int) -> Cursor | str:
    """Return the cursor before step `first` of the line that led to the state, or why it cannot be found."""
    if last > state.step:
        return f"steps {first} to {last} are not done yet: the run is at step {state.step}"
    if first < run.phase.first_step:
        return (
            f"steps {first} to {last} are not all of phase {run.phase.name}, which began with step "
            f"{run.phase.first_step}, and whose model and samples are not those of the phase before"
        )
    earlier = (entry for entry in line_of(run.store.list(), state.saved) if entry.step < first)
    saved = next(earlier, None)
    step = saved.step if saved else 0
    cursor = Cursor.from_json(saved.manifest.cursor) if saved else Cursor()
    cursor = replace(cursor, skip_windows=state.cursor.skip_windows).passed(state.cursor.history)
    found = None
    while step < state.step:
        if step + 1 == first:
            found = cursor
        cursor = run.data.stream.take(cursor)[1].passed(state.cursor.history)
        step += 1
    if found is None or cursor != state.cursor.passed(state.cursor.history):
        # Another batch size, or a window that was added behind the cursor.
        return f"the samples of steps {first} to {last} can no longer be determined"
    return found


def _own_sums(run: Run, cursor: Cursor, positions: Positions) -> Sums:
    """Compute the losses of this rank's samples of the step at the cursor. Every rank must call it."""
    data = run.data.stream.step(cursor)
    run.pipeline.forward(data.micro_batches or (None,) * run.phase.num_microbatches_of(len(positions)), flags=())
    return own_losses(run, positions)


def _added(of_ranks: Sequence[Sums]) -> Sums:
    """Return the sums of all ranks. Ranks that share a sequence have computed the losses of some of its tokens each."""
    totals: Sums = {}
    for sums in of_ranks:
        for position, (loss, tokens) in sums.items():
            before = totals.get(position, (0.0, 0.0))
            totals[position] = (before[0] + loss, before[1] + tokens)
    return totals


def _lines(run: Run, cursor: Cursor, steps: Mapping[int, int], totals: Sums) -> Iterator[dict[str, object]]:
    """Yield one line per sample: samples whose loss is not finite first, then by falling loss."""
    means = {position: loss / tokens if tokens else 0.0 for position, (loss, tokens) in totals.items()}
    ordered = sorted(means, key=lambda position: (-_height(means[position]), position))
    positions = np.array(ordered, dtype=np.int64)
    tokenizer = _tokenizer(run)
    for sample in run.data.stream.order(cursor).read_at(positions, run.phase.seq_length):
        position = sample.position
        fields = as_evidence(sample, steps[position], means[position], totals[position][1])
        if tokenizer is not None:
            fields |= text_signs(tokenizer.decode(sample.tokens.tolist()))
        yield fields


def _height(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _tokenizer(run: Run) -> Tokenizer | None:
    """Return the tokenizer, or None if it cannot be opened: evidence without text is still useful."""
    if run.config.data.tokenizer is None:
        return None
    try:
        return open_tokenizer(run.config.data.tokenizer, needs_end=False)
    except DataError:
        return None


def _refused(run: Run, state: TrainState, command: Command, problem: str) -> TrainState:
    refused = EvidenceRefused(attempt=state.attempt, step=state.step, reason=problem, command=command.source)
    run.inbox.refuse(command, problem)
    run.announce(f"warning: no evidence for {command.source}: {problem}", refused)
    return state
