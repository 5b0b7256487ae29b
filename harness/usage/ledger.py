"""The ledger of a run: its use of each channel, part and document, read from the run's folder without torch.

It is arithmetic on the order of the samples. A part is opened only to count its documents, and then only that part.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.channels.channels import Channel, open_channel
from harness.config.load import load_config
from harness.data.files.opened import open_part
from harness.data.order.recipe import Recipe, recipe_for
from harness.data.order.samples import SampleOrder, open_turns
from harness.data.order.turns import ChannelTurns
from harness.errors import UsageError
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import make_plan
from harness.run.order_changes import num_parts_of
from harness.run.order_file import read_journal
from harness.run.paths import RunDir
from harness.usage.trained import Trained, recorded_data, trained_by

Range = tuple[int, int]
Turn = tuple[str, str, int]
"""Channel, part and epoch."""


@dataclass(frozen=True, kw_only=True)
class PartUse:
    """Use of a part by one attempt, in one phase and one epoch."""

    channel: str
    part: str
    phase: str
    attempt: int
    epoch: int
    is_kept: bool
    """The current weights were trained on it: no rollback has abandoned it."""
    samples: int
    tokens: int
    """Tokens that stood as input."""
    part_tokens: int
    """Tokens of the whole part."""
    is_skipped: bool = False
    """Jumped over and not trained on: a skip window."""


@dataclass(frozen=True, kw_only=True)
class DocumentTokens:
    """Use of a document by attempts that are kept."""

    channel: str
    part: str
    document: int
    tokens: int
    """Tokens that stood as input."""
    document_tokens: int
    """Tokens of the document."""

    @property
    def epochs(self) -> float:
        """Number of times that the document was seen."""
        return self.tokens / self.document_tokens if self.document_tokens else 0.0


class RunLedger:
    """The whole use of a run."""

    def __init__(self, root: Path) -> None:
        """Read the run.

        Raises:
            UsageError: There is no run in the folder.
            DataError: Its channels are gone or were changed, or records are missing.
        """
        run_dir = RunDir(root)
        run_dir.require_run()
        config = load_config(run_dir.config)
        plan = make_plan(config, needed_world_sizes(config))
        self.phases = tuple(phase.name for phase in plan.phases)
        self.recipe: Recipe = recipe_for(config, plan.phases, recorded_data(run_dir))
        self.trained: list[Trained] = trained_by(run_dir, self.phases, config.data.skip_windows)
        adopted = num_parts_of(read_journal(run_dir.order))
        self.channels: tuple[Channel, ...] = tuple(
            open_channel(name, config.data.channels[name], adopted.get(name)) for name in self.recipe.channel_names
        )
        turns: list[ChannelTurns] = open_turns(self.channels, self.recipe, open_part)
        self.order = lru_cache(maxsize=4)(partial(SampleOrder, turns, self.recipe))

    def parts(self) -> list[PartUse]:
        """Return the use of every part by attempt, phase and epoch, and then the skipped samples."""
        uses = [use for trained in self.trained for use in self._uses(trained, trained.ranges(), is_skipped=False)]
        kept = [trained for trained in self.trained if trained.is_kept]
        return uses + [use for last in kept for use in self._uses(last, _skipped(last, kept), is_skipped=True)]

    def epochs(self) -> dict[tuple[str, str], float]:
        """Return the passes over each channel in each phase, of what the current weights were trained on."""
        passes: dict[tuple[str, str], float] = {}
        for trained in self.trained:
            if trained.is_kept:
                for channel, number in self.order(trained.history).epochs(trained.ranges()).items():
                    place = channel, self.phases[trained.phase]
                    passes[place] = passes.get(place, 0.0) + number
        return passes

    def tokens_to_train_on(self, channel: str, part: str) -> int:
        """Return the tokens of a part that are not held out."""
        turns = self.order(()).turns_of(channel)
        return int(turns.num_tokens[turns.number_of(part)])

    def documents(self, channel: str, part: str) -> list[DocumentTokens]:
        """Return the use of every document of a part.

        Raises:
            DataError: The part is damaged, or there is none of that name.
        """
        turns = self.order(()).turns_of(channel)
        number = turns.number_of(part)
        lengths = turns.lengths_of(number, np.arange(turns.channel.parts[number].num_documents))
        used = np.zeros(len(lengths), dtype=np.int64)
        for trained in self.trained:
            if trained.is_kept:
                used += count_documents(self.order(trained.history), trained.ranges(), channel, part)
        rows = zip(used.tolist(), lengths.tolist(), strict=True)
        return [
            DocumentTokens(channel=channel, part=part, document=number, tokens=tokens, document_tokens=length)
            for number, (tokens, length) in enumerate(rows)
        ]

    def _uses(self, trained: Trained, ranges: Sequence[Range], *, is_skipped: bool) -> Iterator[PartUse]:
        part_tokens = {(each.name, part.name): part.num_tokens for each in self.channels for part in each.parts}
        samples, tokens = count_parts(self.order(trained.history), ranges)
        for channel, part, epoch in samples:
            yield PartUse(
                channel=channel,
                part=part,
                phase=self.phases[trained.phase],
                attempt=trained.attempt,
                epoch=epoch,
                is_kept=trained.is_kept,
                samples=samples[channel, part, epoch],
                tokens=tokens[channel, part, epoch],
                part_tokens=part_tokens[channel, part],
                is_skipped=is_skipped,
            )


def count_parts(order: SampleOrder, ranges: Iterable[Range]) -> tuple[Counter[Turn], Counter[Turn]]:
    """Return the samples in ranges of positions by turn, and the tokens that stood as input in them.

    A part is opened only if a quarantine requires it.
    """
    samples, tokens = Counter[Turn](), Counter[Turn]()
    for start, stop in ranges:
        for channel, drawn in order.cut_ranges(start, stop):
            turn = (channel, drawn.part_name, drawn.cut.epoch)
            samples[turn] += drawn.stop - drawn.start
            tokens[turn] += order.turns_of(channel).num_inputs(drawn.cut, drawn.start, drawn.stop)
    return samples, tokens


def count_documents(order: SampleOrder, ranges: Iterable[Range], channel: str, part: str) -> npt.NDArray[np.int64]:
    """Return how many tokens of each document of a part stood as input in ranges of positions, [D].

    Raises:
        DataError: The part is damaged, or the channel has none of that name.
    """
    turns = order.turns_of(channel)
    tokens = np.zeros(turns.channel.parts[turns.number_of(part)].num_documents, dtype=np.int64)
    for start, stop in ranges:
        for name, drawn in order.cut_ranges(start, stop):
            if (name, drawn.part_name) == (channel, part):
                documents, counts = turns.samples(drawn.cut).tokens_of_documents(drawn.start, drawn.stop)
                np.add.at(tokens, documents, counts)
    return tokens


def _skipped(trained: Trained, line: Sequence[Trained]) -> list[Range]:
    """Return the positions that were skipped up to the end of this piece of the line."""
    before = max((each.end for each in line if each.last_consumed <= trained.first_consumed), default=0)
    windows = ((max(start, before), min(stop, trained.end)) for start, stop in trained.skip_windows)
    return [(start, stop) for start, stop in windows if start < stop]


def write_parquet(path: Path, rows: Sequence[PartUse] | Sequence[DocumentTokens]) -> None:
    """Write rows as a Parquet file.

    Raises:
        UsageError: The package pyarrow is not installed, or the file cannot be written.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            "writing Parquet needs the Python package pyarrow, which is not installed. Install the project with its "
            "`data-fast` extra, or use --json."
        ) from error
    try:
        parquet.write_table(arrow.Table.from_pylist([asdict(row) for row in rows]), path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}. Give another --parquet.") from error
