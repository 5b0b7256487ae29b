"""The training data of one rank: from a cursor to the micro-batches of the next step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch

from harness.channels.channels import Channel, PartsDigest, parts_digest
from harness.channels.held_out import HeldOut
from harness.channels.parts import Part
from harness.data.batch import Batch, collate
from harness.data.files.checked import UsedPart
from harness.data.files.mcore import MappedPart
from harness.data.order.channel_order import SampleAddress
from harness.data.order.cursor import Cursor, Positions, rank_positions
from harness.data.order.recipe import Recipe
from harness.data.order.samples import LocatedSamples, SampleOrder, open_turns
from harness.data.prefetch import Prefetcher
from harness.run.order_changes import History, num_parts_of

_NUM_RECENT_ORDERS = 4
"""Orders kept in memory: those before and after a change, and those of steps that are examined again."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The cut of the global batch for this rank. It does not change the samples of a step."""

    global_batch_size: int
    micro_batch_size: int
    dp_rank: int
    dp_size: int
    reads_tokens: bool = True
    """False on pipeline stages between the first and the last: without reset at document borders they need no
    tensors."""
    pin_memory: bool = False
    """Put the tensors into page-locked memory (needs a GPU)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepData:
    """The data of one step on one rank."""

    micro_batches: tuple[Batch, ...]
    """In the order in which they are computed; empty on a stage that reads no tokens."""
    batch_hash: int
    """64-bit hash of the identities of the whole global batch, in order: equal on all ranks and under any layout."""
    positions: Positions
    """Positions of the whole global batch in the sample order, int64 [global_batch_size]."""
    next_cursor: Cursor


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """The parts of one step, the same on every rank."""

    used: tuple[UsedPart, ...]
    """They hold samples of the step."""
    following: Mapping[str, tuple[UsedPart, ...]]
    """By channel that has samples in the step: parts whose turns come next."""


class TrainingStream:
    """Makes the data of steps from their cursors, and prepares the following steps. It keeps no position."""

    def __init__(
        self,
        channels: Sequence[Channel],
        recipe: Recipe,
        shape: BatchShape | Callable[[Cursor], BatchShape],
        *,
        num_prefetch_batches: int = 2,
    ) -> None:
        """Open the sample order.

        The channels are all that the recipe uses, with the parts known so far. The shape is that of every batch, or
        where that changes, a function of the cursor at which a batch begins.

        Raises:
            DataError: A channel is missing, damaged, or too small for one sample.
        """
        self._turns = open_turns(channels, recipe, MappedPart)
        self._digests = {each.channel.name: PartsDigest().followed_by(each.channel.parts) for each in self._turns}
        self._digest_texts: dict[str, dict[int, str]] = {name: {} for name in self._digests}
        """Digests of the first parts of a channel, by their number."""
        self._recipe = recipe
        self._shape_at = shape if callable(shape) else lambda _: shape
        self._newest_order = SampleOrder(self._turns, recipe)
        self._order_of = lru_cache(maxsize=_NUM_RECENT_ORDERS)(self._make_order)
        self._located = lru_cache(maxsize=num_prefetch_batches + _NUM_RECENT_ORDERS)(self._locate)
        pin_memory = self._shape_at(Cursor()).pin_memory
        begin_thread = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin_memory else None
        self._steps = Prefetcher(self._prepare, self._following, num_prefetch_batches, begin_thread)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels with all parts that are known, by channel id."""
        return tuple(turns.channel for turns in self._turns)

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """Documents that channels keep for evaluation of the parts that they train on, where they keep some."""
        return {turns.channel.name: turns.held_out for turns in self._turns if turns.held_out.num_documents}

    def extend(self, parts: Mapping[str, tuple[Part, ...]]) -> None:
        """Add further parts to channels. They are used from the position at which the history of a cursor adopts them.

        Raises:
            DataError: A part cannot hold the vocabulary.
        """
        for turns in self._turns:
            name = turns.channel.name
            turns.extend(parts.get(name, ()))
            self._digests[name] = self._digests[name].followed_by(parts.get(name, ()))

    def adopted(self, cursor: Cursor, further: Mapping[str, tuple[Part, ...]]) -> Cursor:
        """Return the cursor with these further parts of channels in use from here on, behind all that are known."""
        digests = {name: self._digests[name].followed_by(parts) for name, parts in further.items()}
        for name, digest in digests.items():
            self._digest_texts[name] = {digest.num_parts: digest.text}
        return cursor.adopt({name: (digest.num_parts, digest.text) for name, digest in digests.items()})

    def digest_of(self, channel: Channel, num_parts: int) -> str:
        """Return the digest of the first parts of a channel, quickly for those that were adopted together."""
        known = self._digest_texts[channel.name]
        if num_parts not in known:
            known[num_parts] = parts_digest(channel.parts[:num_parts])
        return known[num_parts]

    def begun(self, cursor: Cursor) -> Cursor:
        """Return the cursor with all known parts adopted at position 0 for channels that have adopted none."""
        unknown = {each.name for each in self.channels} - set(num_parts_of(cursor.history))
        return cursor.with_changes(self.adopted(Cursor(), dict.fromkeys(sorted(unknown), ())).history)

    def order(self, cursor: Cursor) -> SampleOrder:
        """Return the order of the samples under the history of a cursor."""
        return self._order_of(cursor.history)

    def _make_order(self, history: History) -> SampleOrder:
        """Return the order under a history, which goes on from the one that was asked for last."""
        self._newest_order = made = self._newest_order.under(history)
        return made

    def step(self, cursor: Cursor) -> StepData:
        """Return the data of the step that begins at `cursor`.

        Raises:
            DataError: A part whose turn has come is damaged, or a token id lies outside the vocabulary.
        """
        return self._steps.get(cursor)

    def take(self, cursor: Cursor) -> tuple[Positions, Cursor]:
        """Return the positions of the samples of the step at `cursor`, and the cursor behind it. Reads nothing."""
        seq_length = self._recipe.phases[cursor.phase].seq_length
        return cursor.take(self._shape_at(cursor).global_batch_size, seq_length)

    def lacks_parts_of(self, cursor: Cursor) -> tuple[str, ...]:
        """Return the channels that must get further parts before the step at `cursor` has its samples."""
        return self.order(cursor).lacks_parts_of(self.take(cursor)[0])

    def peek_hash(self, cursor: Cursor) -> int | None:
        """Return the `batch_hash` of the step at `cursor` without reading tokens; None if the step lacks parts."""
        order, (positions, _) = self.order(cursor), self.take(cursor)
        return None if order.lacks_parts_of(positions) else order.batch_hash(order.locate(positions))

    def parts_at(self, cursor: Cursor) -> StepParts:
        """Return the parts that hold samples of the step at `cursor`, and those whose turns come next; opens none.

        Raises:
            DataError: A part that must be opened to count its samples is damaged.
        """
        order = self.order(cursor)
        used, following = order.parts_of(self._located(cursor)[2])
        return StepParts(used=used, following=following)

    def addresses(self, cursor: Cursor, positions: Positions) -> list[SampleAddress]:
        """Return the addresses of samples of the run, in the order under a cursor's history."""
        order = self.order(cursor)
        return order.addresses(order.locate(positions))

    def epochs(self, cursor: Cursor) -> dict[str, float]:
        """Return the passes over each channel up to the cursor."""
        return self.order(cursor).epochs(cursor.passed_ranges())

    def close(self) -> None:
        """Stop the prefetch thread."""
        self._steps.close()

    def _locate(self, cursor: Cursor) -> tuple[Positions, Cursor, LocatedSamples]:
        """Return the positions and the samples of the step at `cursor`, and the cursor behind it."""
        positions, next_cursor = self.take(cursor)
        return positions, next_cursor, self.order(cursor).locate(positions)

    def _following(self, cursor: Cursor) -> Cursor:
        return self.take(cursor)[1]

    def _prepare(self, cursor: Cursor) -> StepData:
        order = self.order(cursor)
        positions, next_cursor, samples = self._located(cursor)
        shape = self._shape_at(cursor)
        micro_batches: tuple[Batch, ...] = ()
        if shape.reads_tokens or self._recipe.reset_at_document_borders:
            mine = rank_positions(
                np.arange(len(positions)),
                dp_rank=shape.dp_rank,
                dp_size=shape.dp_size,
                micro_batch_size=shape.micro_batch_size,
            )
            width = self._recipe.phases[cursor.phase].seq_length + 1
            micro_batches = tuple(self._micro_batch(order, samples[chosen], width) for chosen in mine)
        return StepData(
            micro_batches=tuple(batch.pinned() for batch in micro_batches) if shape.pin_memory else micro_batches,
            batch_hash=order.batch_hash(samples),
            positions=positions,
            next_cursor=next_cursor,
        )

    def _micro_batch(self, order: SampleOrder, samples: LocatedSamples, width: int) -> Batch:
        rows = np.empty((len(samples), width), dtype=np.int64)
        return collate(
            rows,
            order.read(samples, out=rows),
            samples.channels,
            reset_at_document_borders=self._recipe.reset_at_document_borders,
            eod_mask_loss=self._recipe.eod_mask_loss,
        )
