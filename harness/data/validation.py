"""Held-out samples of a channel: the same ones every time, each exactly once, under any layout.

They come from the channel's `validation_path`, or from the documents at the end of its first part, end to end and
unshuffled. All held-out tokens are used: the last sample of a part may be shorter than the others and is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.channels.channels import Channel
from harness.channels.held_out import held_out_of
from harness.channels.parts import Part
from harness.data.batch import Batch, collate
from harness.data.files.checked import UsedPart, held_out_name
from harness.data.files.mcore import MappedPart
from harness.data.order.packing import PackedDocuments
from harness.data.order.recipe import Recipe
from harness.data.places import places_of
from harness.errors import DataError


@dataclass(frozen=True)
class _HeldOutSample:
    """`num_tokens` tokens from `start` on, at most seq_length + 1."""

    packed: PackedDocuments
    start: int
    num_tokens: int


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """Held-out samples of one channel, as `open_validation` finds them."""

    channel_name: str
    channel_id: int
    has_own_parts: bool
    """True if they are not of a part that is trained on."""
    by_position: bool
    """True if losses are summed up apart by position (`harness.data.places`)."""
    _samples: Sequence[_HeldOutSample]
    _recipe: Recipe

    @property
    def num_samples(self) -> int:
        """Samples in the set: those asked for, or as many as there are."""
        return len(self._samples)

    @property
    def parts(self) -> tuple[UsedPart, ...]:
        """The parts that hold the samples."""
        name = held_out_name(self.channel_name) if self.has_own_parts else self.channel_name
        found = {sample.packed.part.name: sample.packed.part for sample in self._samples}
        return tuple(UsedPart(name, part) for part in found.values())

    def micro_batches(self, dp_rank: int, dp_size: int, micro_batch_size: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches. Where samples run out, rows with a loss mask of 0 fill the last ones.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        for numbers in dealt(self.num_samples, dp_rank, dp_size, micro_batch_size):
            yield self._micro_batch(self._samples[numbers.start : numbers.stop], micro_batch_size)

    def tokens_of(self, number: int) -> npt.NDArray[np.int64]:
        """Return the tokens of a sample, at most S + 1.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        tokens = np.zeros(self._samples[number].num_tokens, dtype=np.int64)
        self._read(self._samples[number], tokens)
        return tokens

    def _micro_batch(self, samples: Sequence[_HeldOutSample], micro_batch_size: int) -> Batch:
        rows = np.zeros((micro_batch_size, self._recipe.seq_length + 1), dtype=np.int64)
        tokens_by_document: list[list[int]] = [[] for _ in range(micro_batch_size)]
        for row, sample in enumerate(samples):
            tokens_by_document[row] = self._read(sample, rows[row, : sample.num_tokens])
        batch = collate(
            rows,
            tokens_by_document,
            np.full(micro_batch_size, self.channel_id, dtype=np.int64),
            reset_at_document_borders=self._recipe.reset_at_document_borders,
            eod_mask_loss=self._recipe.eod_mask_loss,
        )
        return replace(batch, places_BS=places_of(batch.position_ids_BS)) if self.by_position else batch

    def _read(self, sample: _HeldOutSample, out: npt.NDArray[np.int64]) -> list[int]:
        """Read a sample, and return how many of its tokens each document gave."""
        try:
            return sample.packed.read(sample.start, out, self._recipe.vocab_size)
        except DataError as error:
            raise DataError(f"channel {self.channel_name} (validation): {error}") from None


def dealt(num_samples: int, dp_rank: int, dp_size: int, micro_batch_size: int) -> Iterator[range]:
    """Yield the samples of each micro-batch of a data-parallel rank: as many micro-batches on all ranks, some empty."""
    own = dp_rank * micro_batch_size
    for first in range(own, own + num_samples, dp_size * micro_batch_size):
        yield range(min(first, num_samples), min(first + micro_batch_size, num_samples))


def open_validation(
    channel: Channel, channel_id: int, recipe: Recipe, num_samples: int, *, by_position: bool = False
) -> ValidationSet | None:
    """Open the first `num_samples` held-out samples of a channel; None if nothing is held out.

    Raises:
        DataError: A part with held-out documents is damaged.
    """
    samples: list[_HeldOutSample] = []
    if channel.validation_parts is not None:
        for part in channel.validation_parts:
            if len(samples) < num_samples and part.num_tokens > 1:
                opened = _open(channel, part, recipe)
                samples += _cut(opened, part.num_documents, recipe, num_samples - len(samples))
    else:
        samples = _of_first_part(channel, recipe, num_samples) if recipe.held_out_share else []
    has_own_parts = channel.validation_parts is not None
    return ValidationSet(channel.name, channel_id, has_own_parts, by_position, samples, recipe) if samples else None


def _of_first_part(channel: Channel, recipe: Recipe, num_samples: int) -> list[_HeldOutSample]:
    """Return at most `num_samples` samples of the documents that are held out of a channel's first part."""
    opened = _open(channel, channel.parts[0], recipe)

    def lengths(first: int, behind: int) -> list[int]:
        return [int(length) for length in opened.lengths_of(np.arange(first, behind))]

    held_out = held_out_of(opened.part, recipe.held_out_share, recipe.held_out_by, lengths)
    return _cut(opened, held_out.num_documents, recipe, num_samples)


def _open(channel: Channel, part: Part, recipe: Recipe) -> MappedPart:
    try:
        return MappedPart(part, recipe.vocab_size)
    except DataError as error:
        raise DataError(f"channel {channel.name} (validation): {error}") from error


def _cut(opened: MappedPart, num_documents: int, recipe: Recipe, limit: int) -> list[_HeldOutSample]:
    """Return the last `num_documents` documents of a part as at most `limit` samples."""
    end = opened.part.num_documents
    packed = PackedDocuments(opened, np.arange(end - num_documents, end))
    return [
        _HeldOutSample(packed, start, min(recipe.seq_length + 1, packed.num_tokens - start))
        for start in range(0, packed.num_tokens - 1, recipe.seq_length)[:limit]
    ]
