"""The ledger of a run: its use of each channel, part and document, read from the run's folder without torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

from harness.config.load import load_config
from harness.data.files.channels import Channel, open_channel
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import Recipe, recipe_for
from harness.data.order.samples import SampleOrder, open_turns
from harness.data.order.turns import ChannelTurns
from harness.errors import UsageError
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import make_plan
from harness.run.order_changes import num_parts_of
from harness.run.order_file import read_journal
from harness.run.paths import RunDir
from harness.usage.past_steps import PartOfRun
from harness.usage.trained import Trained, trained_by
from harness.usage.use import Range, count_documents, count_parts


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
        self.recipe: Recipe = recipe_for(config, plan.phases)
        self.trained: list[Trained] = trained_by(run_dir, self.phases, config.data.skip_windows)
        adopted = num_parts_of(read_journal(run_dir.order))
        self.channels: tuple[Channel, ...] = tuple(
            open_channel(name, config.data.channels[name], adopted.get(name)) for name in self.recipe.channel_names
        )
        turns: list[ChannelTurns] = open_turns(self.channels, self.recipe, PartOfRun)
        self.order = lru_cache(maxsize=4)(partial(SampleOrder, turns, self.recipe))

    def parts(self) -> list[PartUse]:
        """Return the use of every part by attempt, phase and epoch, and then the skipped samples."""
        uses = [use for trained in self.trained for use in self._uses(trained, trained.ranges(), is_skipped=False)]
        kept = [trained for trained in self.trained if trained.is_kept]
        if kept:
            uses += [use for last in kept for use in self._uses(last, _skipped(last, kept), is_skipped=True)]
        return uses

    def documents(self, channel: str, part: str) -> list[DocumentTokens]:
        """Return the use of every document of a part.

        Raises:
            DataError: The part is damaged, or there is none of that name.
        """
        kept = [trained for trained in self.trained if trained.is_kept]
        counts = [count_documents(self.order(each.history), each.ranges(), channel, part) for each in kept]
        if not counts:
            counts = [count_documents(self.order(Cursor().history), (), channel, part)]
        total = sum((count.tokens for count in counts[1:]), start=counts[0].tokens)
        rows = zip(total.tolist(), counts[0].lengths.tolist(), strict=True)
        return [
            DocumentTokens(channel=channel, part=part, document=number, tokens=tokens, document_tokens=length)
            for number, (tokens, length) in enumerate(rows)
        ]

    def _uses(self, trained: Trained, ranges: Sequence[Range], *, is_skipped: bool) -> Iterable[PartUse]:
        tokens = {(each.name, part.name): part.num_tokens for each in self.channels for part in each.parts}
        for turn, use in count_parts(self.order(trained.history), ranges).items():
            yield PartUse(
                channel=turn.channel,
                part=turn.part,
                phase=self.phases[trained.phase],
                attempt=trained.attempt,
                epoch=turn.epoch,
                is_kept=trained.is_kept,
                samples=use.samples,
                tokens=use.tokens,
                part_tokens=tokens[turn.channel, turn.part],
                is_skipped=is_skipped,
            )


def _skipped(trained: Trained, line: Sequence[Trained]) -> list[Range]:
    """Return the positions that were skipped up to the end of this piece of the line."""
    before = max((each.end for each in line if each.last_consumed <= trained.first_consumed), default=0)
    windows = ((max(start, before), min(stop, trained.end)) for start, stop in trained.skip_windows)
    return [(start, stop) for start, stop in windows if start < stop]


def write_parquet(path: Path, rows: Sequence[PartUse] | Sequence[DocumentTokens]) -> None:
    """Write rows as a Parquet file.

    Raises:
        UsageError: pyarrow is not installed, or the file cannot be written.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            "writing Parquet needs the Python package pyarrow, which is not installed. Install the project with its "
            "`data` extra, or use --json."
        ) from error
    try:
        parquet.write_table(arrow.Table.from_pylist([asdict(row) for row in rows]), path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}. Give another --parquet.") from error
