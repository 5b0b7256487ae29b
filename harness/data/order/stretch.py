"""A stretch of a channel's samples over which sequence length, parts and quarantine stay the same.

Within it everything is arithmetic: what is left of the turn under way, then the parts that have not had their turn in
this epoch, then whole epochs of all parts, as often as one asks. Where a channel is shuffled within windows of parts, a
turn is that of the next so many parts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.order.cuts import Cut, Quarantine
from harness.data.order.turns import ChannelTurns
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

    cuts: tuple[Cut, ...]
    """The turn under way: of one part, or of the parts of a window; empty before the first sample."""
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


class _Slots(NamedTuple):
    """Places of n samples in turns, [n] each."""

    epochs: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    """First part of the turn."""
    slots: npt.NDArray[np.int64]
    """Which sample of the turn it is."""


START = Place(cuts=(), num_taken=0, epoch=0, next_part=0)


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
        self._ends = np.cumsum(turns.counts(terms.num_parts, terms.seq_length, terms.quarantine))
        self._num_left = sum(map(turns.count, place.cuts)) - place.num_taken
        self._num_in_epoch = self._num_left + self.num_samples - self._before(place.next_part)
        if self.num_samples == 0:
            most = turns.num_tokens[: terms.num_parts].max()
            raise DataError(
                f"channel {turns.channel.name}: no part holds one sample of {terms.seq_length + 1} tokens "
                f"(`seq_length` + 1); the largest has {most} tokens to train on, {turns.num_held_out} documents are "
                "held out. Add data, or lower `seq_length` or `evaluation.held_out_share`."
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
        found = self._slots(numbers)
        parts, indices = np.empty_like(numbers), np.empty_like(numbers)
        salts = np.zeros(len(numbers), dtype=np.uint64)
        turns = found.epochs * self.terms.num_parts + found.firsts
        for turn in np.unique(turns).tolist():
            chosen = turns == turn
            cuts = self._cuts_of(*reversed(divmod(turn, self.terms.num_parts)))
            owners, places = self._turns.mixed(cuts, found.slots[chosen])
            for owner, cut in enumerate(cuts):
                mine = np.flatnonzero(chosen)[owners == owner]
                if len(mine):
                    parts[mine], salts[mine] = cut.part, cut.salt
                    indices[mine] = self._turns.samples(cut).samples[places[owners == owner]]
        return ChannelSamples(parts=parts, epochs=found.epochs, indices=indices, salts=salts)

    def cut_of(self, part: int, epoch: int) -> Cut:
        """The cut by which a part has its turn in an epoch, in this stretch."""
        under_way = (cut for cut in self._place.cuts if (cut.part, cut.epoch) == (part, epoch))
        return next(under_way, Cut(part, epoch, self.terms.seq_length, self.terms.quarantine.get(part, ())))

    def draws(self, start: int, stop: int) -> Iterator[Draw]:
        """The channel's samples with numbers `start … stop - 1` of this stretch, turn by turn."""
        while start < stop:
            epoch, first, slot = (int(array[0]) for array in self._slots(np.array([start])))
            cuts = self._cuts_of(first, epoch)
            end = min(slot + stop - start, sum(map(self._turns.count, cuts)))
            taken = zip(cuts, self._turns.taken(cuts, slot), self._turns.taken(cuts, end), strict=True)
            for cut, before, behind in taken:
                if before < behind:
                    yield Draw(self._turns.channel.parts[cut.part].name, cut, before, behind)
            start += end - slot

    def place_at(self, number: int) -> Place:
        """Where the channel stands before its sample with this number: in the turn of the sample before it."""
        if number == self.first:
            return self._place
        epoch, first, slot = (int(array[0]) for array in self._slots(np.array([number - 1])))
        cuts = self._cuts_of(first, epoch)
        next_part = self._place.next_part if cuts == self._place.cuts else cuts[-1].part + 1
        return Place(cuts=cuts, num_taken=slot + 1, epoch=epoch, next_part=next_part)

    def followed_by(self, terms: Terms, number: int) -> Stretch:
        """The stretch with other terms that begins at the channel's sample with this number."""
        return Stretch(self._turns, terms, self._cut_anew(self.place_at(number), terms), number)

    def _cut_anew(self, place: Place, terms: Terms) -> Place:
        """The same place under other terms: the turn under way is cut anew if its cuts no longer hold."""
        wanted = [(terms.seq_length, terms.quarantine.get(cut.part, ())) for cut in place.cuts]
        if wanted == [(cut.seq_length, cut.quarantine) for cut in place.cuts]:
            return place
        taken = self._turns.taken(place.cuts, place.num_taken)
        anew = (
            Cut(cut.part, cut.epoch, *rules, cut, count)
            for cut, rules, count in zip(place.cuts, wanted, taken, strict=True)
        )
        return place._replace(cuts=tuple(anew), num_taken=0)

    def _cuts_of(self, first: int, epoch: int) -> tuple[Cut, ...]:
        """The cuts of the turn that begins with a part."""
        cuts = self._place.cuts
        if cuts and (cuts[0].part, cuts[0].epoch) == (first, epoch):
            return cuts
        return tuple(
            self.cut_of(part, epoch) for part in range(first, min(first + self._turns.window, self.terms.num_parts))
        )

    def _before(self, part: int) -> int:
        return int(self._ends[part - 1]) if part else 0

    def _slots(self, numbers: npt.NDArray[np.int64]) -> _Slots:
        """In which turns samples lie, and where."""
        beyond = numbers - self.first - self._num_in_epoch
        epochs = np.where(beyond < 0, self._place.epoch, self._place.epoch + 1 + beyond // self.num_samples)
        places = np.where(beyond < 0, self.num_samples + beyond, beyond % self.num_samples)
        parts = np.searchsorted(self._ends, places, side="right")
        origins = np.where(beyond < 0, self._place.next_part, 0)
        # What is left of the turn under way may lie before the first part as it is counted now; it is replaced below.
        firsts = np.maximum(parts - (parts - origins) % self._turns.window, 0)
        slots = places - np.where(firsts > 0, self._ends[firsts - 1], 0)
        if self._place.cuts:
            from_begin = numbers - self.first
            under_way = from_begin < self._num_left
            firsts = np.where(under_way, self._place.cuts[0].part, firsts)
            slots = np.where(under_way, from_begin + self._place.num_taken, slots)
        return _Slots(epochs, firsts.astype(np.int64), slots)
