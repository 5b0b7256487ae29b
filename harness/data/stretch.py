"""A stretch of a channel's samples over which sequence length, parts and quarantine stay the same.

Within it everything is arithmetic: what is left of the turn under way, then the parts that have not had their turn in
this epoch, then whole epochs of all parts, as often as one asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.cuts import Cut, Quarantine
from harness.data.turns import ChannelTurns
from harness.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What stays the same over a stretch."""

    seq_length: int
    num_parts: int
    """The first so many parts of the channel are used."""
    quarantine: Mapping[int, Quarantine] = field(default_factory=dict)
    """By the number of the part."""


class Place(NamedTuple):
    """How far a channel has come: in which turn, how many samples of it were taken, and what follows."""

    cut: Cut | None
    """The turn under way; None before the first sample."""
    num_taken: int
    epoch: int
    next_part: int
    """Part whose turn is next in this epoch; behind the last, the next epoch begins."""


class Draw(NamedTuple):
    """Samples `start … stop - 1` of a cut, in the order of the cut."""

    part_name: str
    cut: Cut
    start: int
    stop: int


START = Place(cut=None, num_taken=0, epoch=0, next_part=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelSamples:
    """Addresses of n samples of one channel, as arrays [n]; parts by their number in the channel."""

    parts: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    salts: npt.NDArray[np.uint64]
    """`Cut.salt` of the cut that the sample is from."""


class Stretch:
    """Samples of a channel from number `first` on, until a further stretch begins."""

    def __init__(self, turns: ChannelTurns, terms: Terms, place: Place, first: int) -> None:
        """Count the samples of every part.

        Raises:
            DataError: No part holds a whole sample.
        """
        self.terms = terms
        self.first = first
        self._turns = turns
        self._place = place
        tokens = turns.num_tokens[: terms.num_parts].copy()
        for part, documents in terms.quarantine.items():
            if part < terms.num_parts:
                tokens[part] -= sum(number for _, number in documents)
        self._ends = np.cumsum(np.maximum(tokens - 1, 0) // terms.seq_length)
        self._num_left = turns.count(place.cut) - place.num_taken if place.cut else 0
        self._num_in_epoch = self._num_left + self.num_samples - self._before(place.next_part)
        if self.num_samples == 0:
            raise DataError(
                f"channel {turns.channel.name}: no part holds one sample of {terms.seq_length + 1} tokens "
                f"(`seq_length` + 1); the largest has {tokens.max()} tokens to train on, {turns.num_held_out} "
                "documents are held out. Add data, or lower `seq_length` or `evaluation.held_out_share`."
            )

    @property
    def num_samples(self) -> int:
        """Samples in a whole epoch."""
        return int(self._ends[-1])

    def epoch_of(self, number: int) -> int:
        """The epoch of the channel's sample with this number."""
        beyond = number - self.first - self._num_in_epoch
        return self._place.epoch if beyond < 0 else self._place.epoch + 1 + beyond // self.num_samples

    def begin_of(self, epoch: int) -> int:
        """Number of the first sample of an epoch after the one under way."""
        return self.first + self._num_in_epoch + (epoch - self._place.epoch - 1) * self.num_samples

    def passes(self, num_drawn: int) -> float:
        """How often the channel has been passed through when so many of its samples have been drawn."""
        drawn = num_drawn - self.first - self._num_in_epoch
        epochs, rest = divmod(drawn, self.num_samples) if drawn > 0 else (0, drawn)
        return (self.num_samples * (self._place.epoch + 1 + epochs) + rest) / self.num_samples

    def locate(self, numbers: npt.NDArray[np.int64]) -> ChannelSamples:
        """Addresses of the channel's samples with these numbers, [n].

        Raises:
            DataError: A part whose turn has come is damaged.
        """
        epochs, parts, places = self._places(numbers)
        indices, salts = np.empty_like(numbers), np.zeros(len(numbers), dtype=np.uint64)
        turns = epochs * self.terms.num_parts + parts
        for turn in np.unique(turns).tolist():
            epoch, part = divmod(turn, self.terms.num_parts)
            cut, chosen = self.cut_of(part, epoch), turns == turn
            indices[chosen] = self._turns.samples(cut).samples[places[chosen]]
            salts[chosen] = cut.salt
        return ChannelSamples(parts=parts, epochs=epochs, indices=indices, salts=salts)

    def cut_of(self, part: int, epoch: int) -> Cut:
        """The cut by which a part has its turn in an epoch, in this stretch."""
        under_way = self._place.cut
        if under_way is not None and (under_way.part, under_way.epoch) == (part, epoch):
            return under_way
        return Cut(part, epoch, self.terms.seq_length, self.terms.quarantine.get(part, ()))

    def place_at(self, number: int) -> Place:
        """Where the channel stands before its sample with this number: in the turn of the sample before it."""
        if number == self.first:
            return self._place
        epochs, parts, places = (int(array[0]) for array in self._places(np.array([number - 1])))
        next_part = parts + 1
        if self._place.cut is not None and (self._place.cut.part, self._place.cut.epoch) == (parts, epochs):
            next_part = self._place.next_part
        return Place(cut=self.cut_of(parts, epochs), num_taken=places + 1, epoch=epochs, next_part=next_part)

    def draws(self, start: int, stop: int) -> Iterator[Draw]:
        """The channel's samples with numbers `start … stop - 1` of this stretch, turn by turn."""
        while start < stop:
            epochs, parts, places = (int(array[0]) for array in self._places(np.array([start])))
            cut = self.cut_of(parts, epochs)
            end = min(places + stop - start, self._turns.count(cut))
            yield Draw(self._turns.channel.parts[parts].name, cut, places, end)
            start += end - places

    def followed_by(self, terms: Terms, number: int) -> Stretch:
        """The stretch with other terms that begins at the channel's sample with this number."""
        return Stretch(self._turns, terms, _cut_anew(self.place_at(number), terms), number)

    def _before(self, part: int) -> int:
        return int(self._ends[part - 1]) if part else 0

    def _places(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Epoch, part and place in the part's turn of samples, [n] each."""
        beyond = numbers - self.first - self._num_in_epoch
        epochs = np.where(beyond < 0, self._place.epoch, self._place.epoch + 1 + beyond // self.num_samples)
        places = np.where(beyond < 0, self.num_samples + beyond, beyond % self.num_samples)
        parts = np.searchsorted(self._ends, places, side="right")
        places = places - np.where(parts > 0, self._ends[parts - 1], 0)
        if self._place.cut is not None:
            from_begin = numbers - self.first
            under_way = from_begin < self._num_left
            parts = np.where(under_way, self._place.cut.part, parts)
            places = np.where(under_way, from_begin + self._place.num_taken, places)
        return epochs, parts.astype(np.int64), places


def _cut_anew(place: Place, terms: Terms) -> Place:
    """The same place under other terms: the turn under way is cut anew if its cut no longer holds."""
    cut = place.cut
    if cut is None:
        return place
    quarantine = terms.quarantine.get(cut.part, ())
    if (cut.seq_length, cut.quarantine) == (terms.seq_length, quarantine):
        return place
    anew = Cut(cut.part, cut.epoch, terms.seq_length, quarantine, cut, place.num_taken)
    return place._replace(cut=anew, num_taken=0)
