"""Which sample is number n of a channel.

The parts of a channel follow each other in the order in which they were adopted; after the last part the next epoch
begins. In each epoch a part's documents are shuffled and laid end to end, cut into samples of seq_length + 1 tokens
that overlap by one (a sample's labels are its tokens moved by one), and the samples are shuffled. A part of T tokens
makes (T - 1) // seq_length samples; the rest of it, less than a sample, is not used in that epoch. Both shuffles
depend only on (seed, channel, part, epoch).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
import numpy.typing as npt
import xxhash

from harness.data.channels import Channel
from harness.data.documents import DocumentSpan
from harness.data.packing import OpenPart, PackedDocuments, PartOpener
from harness.data.parts import check_token_width
from harness.data.recipe import Recipe
from harness.data.shuffle import ItemNumbers, permutation, shuffle_key
from harness.errors import DataError

_NUM_RECENT_PARTS = 2
"""Part orders kept in memory for each channel: the current one, and its neighbour while a border is crossed."""


@dataclass(frozen=True, kw_only=True)
class SampleAddress:
    """The identity of a sample: `index` is its place among the packed samples of that part in that epoch."""

    channel: str
    part: str
    epoch: int
    index: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelSamples:
    """Addresses of n samples of one channel, as arrays [n]; parts by their number in the channel."""

    parts: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _PartOrder:
    """The order of one part in one epoch."""

    packed: PackedDocuments
    samples: ItemNumbers


def num_held_out_documents(channel: Channel, held_out_share: float) -> int:
    """How many documents at the end of the channel's first part are never trained on."""
    if channel.validation_parts is not None or held_out_share == 0:
        return 0
    return ceil(Fraction(repr(held_out_share)) * channel.parts[0].num_documents)


class ChannelOrder:
    """The order of the samples in one channel. Only the parts in use are opened; safe to use from several threads."""

    def __init__(self, channel: Channel, recipe: Recipe, open_part: PartOpener) -> None:
        """Count the samples of every part; opens the first part if documents of it are held out.

        Raises:
            DataError: A part cannot hold the vocabulary, the first is damaged, or none holds a whole sample.
        """
        self.channel = channel
        self._recipe = recipe
        self._open_part = open_part
        self._recent: OrderedDict[tuple[int, int], _PartOrder] = OrderedDict()
        self._lock = threading.Lock()
        with _named(channel):
            for part in channel.parts:
                check_token_width(part, recipe.vocab_size)
        self._num_held_out = num_held_out_documents(channel, recipe.held_out_share)
        tokens = np.array([part.num_tokens for part in channel.parts], dtype=np.int64)
        tokens[0] -= self._held_out_tokens()
        samples = np.maximum(tokens - 1, 0) // recipe.seq_length
        self._part_ends = np.cumsum(samples)
        if self.num_samples == 0:
            raise DataError(
                f"channel {channel.name}: no part holds one sample of {recipe.seq_length + 1} tokens (`seq_length` "
                f"+ 1); the largest has {tokens.max()} tokens to train on, {self._num_held_out} documents are held "
                "out. Add data, or lower `seq_length` or `evaluation.held_out_share`."
            )

    @property
    def num_samples(self) -> int:
        """Samples in one epoch."""
        return int(self._part_ends[-1])

    def locate(self, positions: npt.NDArray[np.int64]) -> ChannelSamples:
        """Addresses of the samples at these positions within the channel, [n].

        Raises:
            DataError: A part whose turn has come is damaged.
        """
        epochs, places = np.divmod(positions, self.num_samples)
        parts = np.searchsorted(self._part_ends, places, side="right")
        places = places - np.where(parts > 0, self._part_ends[parts - 1], 0)
        indices = np.empty_like(positions)
        turns = epochs * len(self._part_ends) + parts
        for turn in np.unique(turns).tolist():
            epoch, part = divmod(turn, len(self._part_ends))
            chosen = turns == turn
            indices[chosen] = self._part_order(part, epoch).samples[places[chosen]]
        return ChannelSamples(parts=parts.astype(np.int64), epochs=epochs, indices=indices)

    def part_digests(self) -> npt.NDArray[np.uint64]:
        """A 64-bit digest of the channel's and each part's name, uint64 [number of parts]."""
        names = (f"{self.channel.name}\0{part.name}" for part in self.channel.parts)
        return np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], dtype=np.uint64)

    def documents_of(self, part: int, epoch: int, index: int) -> list[DocumentSpan]:
        """The pieces of documents that a sample is made of, its last label included."""
        seq_length = self._recipe.seq_length
        return self._part_order(part, epoch).packed.spans(index * seq_length, seq_length + 1)

    def read(self, part: int, epoch: int, index: int, out: npt.NDArray[np.int64]) -> list[int]:
        """Copy the seq_length + 1 tokens of a sample into `out`; return how many of them each document gave.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        packed = self._part_order(part, epoch).packed
        with _named(self.channel):
            return packed.read(index * self._recipe.seq_length, out, self._recipe.vocab_size)

    def _part_order(self, part: int, epoch: int) -> _PartOrder:
        with self._lock:
            order = self._recent.pop((part, epoch), None) or self._make_part_order(part, epoch)
            self._recent[part, epoch] = order
            while len(self._recent) > _NUM_RECENT_PARTS:
                self._recent.popitem(last=False)
            return order

    def _make_part_order(self, part: int, epoch: int) -> _PartOrder:
        opened = self._open(part)
        names = (self._recipe.seed, self.channel.name, opened.part.name, epoch)
        num_documents = opened.part.num_documents - (self._num_held_out if part == 0 else 0)
        num_samples = int(self._part_ends[part] - (self._part_ends[part - 1] if part else 0))
        return _PartOrder(
            packed=PackedDocuments(opened, permutation(num_documents, shuffle_key("documents", *names))),
            samples=permutation(num_samples, shuffle_key("samples", *names)),
        )

    def _open(self, part: int) -> OpenPart:
        with _named(self.channel):
            return self._open_part(self.channel.parts[part], self._recipe.vocab_size)

    def _held_out_tokens(self) -> int:
        if self._num_held_out == 0:
            return 0
        num_documents = self.channel.parts[0].num_documents
        held_out = np.arange(num_documents - self._num_held_out, num_documents)
        return int(self._open(0).lengths_of(held_out).sum(dtype=np.int64))


@contextmanager
def _named(channel: Channel) -> Iterator[None]:
    """Put the channel's name in front of what is wrong with its data."""
    try:
        yield
    except DataError as error:
        raise DataError(f"channel {channel.name}: {error}") from error
