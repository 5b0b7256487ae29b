"""Finds the samples that a step of a run was trained on, from the run's folder, without torch.

The search replays the run from the cursor of an earlier checkpoint, with the batch sizes in `metrics.jsonl`. Other
checkpoints show which windows were skipped and which parts were adopted on the way. The hash of the samples' identities
in the step's record proves that the right ones were found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from harness.config.load import load_config
from harness.config.schema import Config
from harness.data.files.channels import open_channel
from harness.data.files.document_table import DocumentSpan
from harness.data.files.opened import open_part
from harness.data.files.parts import Part
from harness.data.order.channel_order import SampleAddress
from harness.data.order.cursor import Cursor, Positions
from harness.data.order.recipe import recipe_for
from harness.data.order.samples import SampleOrder, open_turns
from harness.errors import DataError, UsageError
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import make_plan
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.run.order_changes import History
from harness.run.paths import RunDir
from harness.run.records import StepRecord, from_json_line

_KEY = re.compile(rb'\{"attempt": ([0-9]+), "step": ([0-9]+), ')
_MOST_TRIES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class PastSample:
    """A sample of a step that was trained."""

    position: int
    """In the order of the run's samples."""
    address: SampleAddress
    documents: tuple[DocumentSpan, ...]
    """The pieces of documents that it is made of, its last label included."""
    tokens: npt.NDArray[np.int64]
    """[S + 1]"""


@dataclass(frozen=True, kw_only=True)
class PastStep:
    """A step that was trained, and its samples."""

    record: StepRecord
    samples: tuple[PastSample, ...]
    """In the order of the global batch."""


class PartOfRun:
    """A part whose files are mapped into memory: an `OpenPart` of `harness.data.order.packing` without torch."""

    def __init__(self, part: Part, vocab_size: int) -> None:
        """Map the files. The vocabulary was checked when the run was started.

        Raises:
            DataError: The files do not fit each other.
        """
        self.part = part
        self._opened = open_part(part)

    def lengths_of(self, documents: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Return the tokens of each of these documents, [len(documents)]."""
        lengths: npt.NDArray[np.integer] = self._opened.table.lengths[documents]  # a copy, as the index is an array
        return lengths

    def read(self, spans: Sequence[DocumentSpan], out: npt.NDArray[np.int64]) -> None:
        """Copy the tokens of pieces of documents into `out`, end to end."""
        begin = 0
        for document, first_token, num_tokens in spans:
            piece = self._opened.document(document)[first_token : first_token + num_tokens]
            out[begin : begin + num_tokens] = piece
            begin += num_tokens


def find_step(run_dir: RunDir, step: int, attempt: int | None = None) -> PastStep:
    """Find the samples of a step.

    Args:
        run_dir: The run.
        step: The step.
        attempt: The attempt, where a step was done again after a rollback. Default: the latest.

    Raises:
        UsageError: There is no such run, or it has not done this step.
        DataError: Its data are gone or damaged, or its samples cannot be found any more.
    """
    if not run_dir.config.is_file():
        raise UsageError(
            f"{run_dir.root} is no run directory: there is no config.yaml in it; give one such as runs/NAME"
        )
    config = load_config(run_dir.config)
    records = _records_up_to(run_dir, step, attempt)
    plan = make_plan(config, needed_world_sizes(config))
    recipe = recipe_for(config, plan.phases)
    channels = [open_channel(name, config.data.channels[name]) for name in recipe.channel_names]
    turns = open_turns(channels, recipe, PartOfRun)
    lengths = [phase.seq_length for phase in recipe.phases]
    for start in islice(_replay_starts(run_dir, config, step), _MOST_TRIES):
        found = _replay(start, lengths, records, step)
        if found is None:
            continue
        order = SampleOrder(turns, recipe, found.cursor.history)
        if not _is_proven(order, found.positions, records[step]):
            continue
        return PastStep(record=records[step], samples=_samples(order, found, lengths[found.cursor.phase]))
    raise DataError(
        f"the samples of step {step} of {run_dir.root} cannot be found any more: no replay from a checkpoint gives "
        f"the batch hash {records[step].batch_hash:016x} of its record. Check whether the channels or config.yaml "
        "have changed since."
    )


@dataclass(frozen=True)
class _ReplayStart:
    """Begin of a replay, with the changes that are made on the way."""

    step: int
    cursor: Cursor
    history: History


@dataclass(frozen=True)
class _ReplayEnd:
    """End of a replay: the cursor before the step that is wanted."""

    cursor: Cursor
    positions: Positions


def _records_up_to(run_dir: RunDir, step: int, attempt: int | None) -> dict[int, StepRecord]:
    """Return the records of the attempts that led to the step, by step.

    Raises:
        UsageError: The step is not among them.
    """
    lines: dict[int, tuple[int, bytes]] = {}
    if run_dir.metrics.exists():
        with run_dir.metrics.open("rb") as file:
            for line in file:
                if (key := _KEY.match(line)) is None or int(key[2]) > step:
                    continue
                if attempt is None or int(key[1]) <= attempt:
                    lines[int(key[2])] = (int(key[1]), line)
    last = max(lines, default=0)
    if step not in lines or (attempt is not None and lines[step][0] != attempt):
        of_attempt = "" if attempt is None else f" in attempt {attempt}"
        raise UsageError(
            f"{run_dir.root} has no record of step {step}{of_attempt}; its records up to there end with step {last}. "
            f"Give a step that {run_dir.metrics} has."
        )
    parsed = {number: from_json_line(line) for number, (_, line) in lines.items()}
    return {number: record for number, record in parsed.items() if record is not None}


def _replay_starts(run_dir: RunDir, config: Config, step: int) -> Iterator[_ReplayStart]:
    """Yield the beginnings and changes that a replay can have, the most likely first."""
    saved = [entry for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint)]
    cursors = [(entry.step, Cursor.from_json(entry.manifest.cursor)) for entry in saved]
    rolled_back = _windows_of_rollbacks(run_dir)
    for at, start in (*(pair for pair in reversed(cursors) if pair[0] < step), (0, _first_cursor(config))):
        all_windows = dict.fromkeys((start.skip_windows, *rolled_back, *(cursor.skip_windows for _, cursor in cursors)))
        all_histories = dict.fromkeys((start.history, *(cursor.history for _, cursor in reversed(cursors))))
        for history, windows in product(all_histories, all_windows):
            yield _ReplayStart(at, replace(start, skip_windows=windows).passed(history), history)


def _first_cursor(config: Config) -> Cursor:
    return Cursor(skip_windows=config.data.skip_windows)


def _windows_of_rollbacks(run_dir: RunDir) -> list[tuple[tuple[int, int], ...]]:
    """Return the windows skipped by each rollback, newest first; the checkpoints with them may have been removed."""
    found = []
    lines = run_dir.events.read_bytes().splitlines() if run_dir.events.exists() else []
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):  # a line that a full disk cut off
            event = json.loads(line)
            if event["kind"] == "rollback":
                found.append(tuple((int(start), int(stop)) for start, stop in event["skip_windows"]))
    return found


def _replay(start: _ReplayStart, lengths: list[int], records: dict[int, StepRecord], step: int) -> _ReplayEnd | None:
    """Replay the run from a start to a step; None if the records lack the size of a batch."""
    cursor, before = start.cursor, start.cursor.consumed_samples
    for number in range(start.step + 1, step + 1):
        record = records.get(number)
        if record is None or record.consumed_samples <= before or cursor.consumed_samples != before:
            return None
        positions, behind = cursor.take(record.consumed_samples - before, lengths[cursor.phase])
        if number == step:
            return _ReplayEnd(cursor, positions)
        cursor, before = behind.passed(start.history), record.consumed_samples
    return None


def _is_proven(order: SampleOrder, positions: Positions, record: StepRecord) -> bool:
    try:
        return order.batch_hash(order.locate(positions)) == record.batch_hash
    except DataError:  # this replay would need parts that are missing
        return False


def _samples(order: SampleOrder, found: _ReplayEnd, seq_length: int) -> tuple[PastSample, ...]:
    located = order.locate(found.positions)
    rows = np.empty((len(located), seq_length + 1), dtype=np.int64)
    counts = order.read(located, out=rows)
    described = zip(
        found.positions.tolist(), order.addresses(located), order.documents_of(located), rows, counts, strict=True
    )
    return tuple(
        PastSample(position=position, address=address, documents=tuple(documents), tokens=row[: sum(count)])
        for position, address, documents, row, count in described
    )
