"""Stretches of a channel's samples over which sequence length, number of parts and quarantine stay the same.

Inside a stretch everything is arithmetic. First come the samples that are left of the turn under way, then the turns of
the parts that follow in this epoch, then whole epochs without end. A channel that is shuffled within windows has one
turn for the parts of a window together.

Shapes: P parts in use, n samples that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.order.cuts import Cut, Quarantine
from harness.data.order.turns import ChannelTurns
from harness.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Conditions that hold over a whole stretch; a stretch ends where one of them changes."""

    seq_length: int
    num_parts: int
    """The first `num_parts` parts of the channel are used."""
    quarantine: Mapping[int, Quarantine] = field(default_factory=dict)
    """Documents in quarantine, by the number of their part."""


class ChannelProgress(NamedTuple):
    """The point that a channel has reached: the turn under way, the samples drawn of it, and the part that follows."""

    cuts: tuple[Cut, ...]
    """The turn under way, one cut for each of its parts; empty before the first sample."""
    num_taken: int
    """Samples of the turn that have been drawn."""
    epoch: int
    next_part: int
    """First part of the next turn in this epoch. If it is `num_parts`, the next epoch begins instead."""


START = ChannelProgress(cuts=(), num_taken=0, epoch=0, next_part=0)


class CutRange(NamedTuple):
    """Samples `start … stop - 1` of a cut, in the order in which they are drawn."""

    part_name: str
    cut: Cut
    start: int
    stop: int


class _PlacesInTurns(NamedTuple):
    """The turns of n samples, and their places in them, [n] each."""

    epochs: npt.NDArray[np.int64]
    first_parts: npt.NDArray[np.int64]
    """First part of the turn. With the epoch it identifies the turn."""
    places: npt.NDArray[np.int64]
    """Number of the sample in its turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelSamples:
    """Addresses of n samples of one channel, as arrays [n]; parts by their number in the channel."""

    parts: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    """Number of the sample among the packed samples of its cut, before they are shuffled."""
    salts: npt.NDArray[np.uint64]
    """`Cut.salt` of the sample's cut: keeps samples of a turn apart that was cut anew."""


def joined(
    owners: npt.NDArray[np.int64], locate: Callable[[int, npt.NDArray[np.bool_]], ChannelSamples]
) -> ChannelSamples:
    """Ask each owner of some of n samples for their addresses, and return them in the order of the question.

    `owners` has the number of each sample's owner, [n]. `locate` gets such a number, and which samples are meant, [n].
    """
    parts, epochs, indices = (np.empty(len(owners), dtype=np.int64) for _ in range(3))
    salts = np.empty(len(owners), dtype=np.uint64)
    for owner in np.unique(owners).tolist():
        chosen = owners == owner
        found = locate(owner, chosen)
        parts[chosen], epochs[chosen], indices[chosen] = found.parts, found.epochs, found.indices
        salts[chosen] = found.salts
    return ChannelSamples(parts=parts, epochs=epochs, indices=indices, salts=salts)


class Stretch:
    """The samples of a channel from number `first` on, under unchanging terms, until another stretch begins."""

    def __init__(self, turns: ChannelTurns, terms: Terms, progress: ChannelProgress, first: int) -> None:
        """Count the samples of every part. The stretch continues from `progress` with the channel's sample `first`.

        Raises:
            DataError: No part holds a whole sample.
        """
        self.terms = terms
        self.first = first
        self._turns = turns
        self._progress = progress
        # [P], samples of an epoch up to the end of each part.
        self._ends = turns.ends(terms.num_parts, terms.seq_length, terms.quarantine)
        # Samples left of the turn under way, and of the epoch under way.
        self._num_left = sum(map(turns.count, progress.cuts)) - progress.num_taken
        self._num_in_epoch = self._num_left + self.num_samples - self._before(progress.next_part)
        if self.num_samples == 0:
            most, held_out = turns.num_tokens[: terms.num_parts].max(), turns.held_out.num_documents
            raise DataError(
                f"channel {turns.channel.name}: no part holds one sample of {terms.seq_length + 1} tokens "
                f"(`seq_length` + 1); the largest has {most} tokens to train on, {held_out} documents are "
                "held out. Add data, or lower `seq_length` or `evaluation.held_out_share`."
            )

    @property
    def num_samples(self) -> int:
        """Samples in a whole epoch."""
        return int(self._ends[-1])

    def epoch_of(self, number: int) -> int:
        """Return the epoch of the channel's sample `number`."""
        beyond = number - self.first - self._num_in_epoch
        return self._progress.epoch if beyond < 0 else self._progress.epoch + 1 + beyond // self.num_samples

    def begin_of(self, epoch: int) -> int:
        """Return the number of the first sample of an epoch after the one under way."""
        return self.first + self._num_in_epoch + (epoch - self._progress.epoch - 1) * self.num_samples

    def passes(self, num_drawn: int) -> float:
        """Return how many passes over the channel its first `num_drawn` samples are, as a fraction of epochs."""
        # Measured from the end of the epoch under way, at which epoch + 1 passes are complete; negative before it.
        drawn = num_drawn - self.first - self._num_in_epoch
        epochs, rest = divmod(drawn, self.num_samples) if drawn > 0 else (0, drawn)
        return (self.num_samples * (self._progress.epoch + 1 + epochs) + rest) / self.num_samples

    def locate(self, numbers: npt.NDArray[np.int64]) -> ChannelSamples:
        """Return the addresses of the channel's samples with these numbers, [n].

        Raises:
            DataError: A part whose turn has come is damaged.
        """
        found = self._places_in_turns(numbers)
        parts, indices = np.empty_like(numbers), np.empty_like(numbers)
        salts = np.zeros(len(numbers), dtype=np.uint64)
        # One number for each turn, so that the samples of a turn are found together and its parts opened once.
        turns = found.epochs * self.terms.num_parts + found.first_parts
        for turn in np.unique(turns).tolist():
            epoch, first_part = divmod(turn, self.terms.num_parts)
            chosen = turns == turn  # [n]
            cuts = self._cuts_of(first_part, epoch)
            owners, places_in_cut = self._turns.split_by_cut(cuts, found.places[chosen])
            for owner, cut in enumerate(cuts):
                mine = np.flatnonzero(chosen)[owners == owner]
                if len(mine):
                    parts[mine], salts[mine] = cut.part, cut.salt
                    indices[mine] = self._turns.samples(cut).samples[places_in_cut[owners == owner]]
        return ChannelSamples(parts=parts, epochs=found.epochs, indices=indices, salts=salts)

    def cut_of(self, part: int, epoch: int) -> Cut:
        """Return the cut of a part in an epoch, as it is in this stretch."""
        under_way = (cut for cut in self._progress.cuts if (cut.part, cut.epoch) == (part, epoch))
        return next(under_way, Cut(part, epoch, self.terms.seq_length, self.terms.quarantine.get(part, ())))

    def cut_ranges(self, start: int, stop: int) -> Iterator[CutRange]:
        """Yield the channel's samples `start … stop - 1`, which lie in this stretch, turn by turn and cut by cut."""
        while start < stop:
            epoch, first_part, place = self._place_in_turn(start)
            cuts = self._cuts_of(first_part, epoch)
            end = min(place + stop - start, sum(map(self._turns.count, cuts)))
            before, behind = (self._turns.num_taken_by_cut(cuts, count) for count in (place, end))
            for cut, first, last in zip(cuts, before, behind, strict=True):
                if first < last:
                    yield CutRange(self._turns.channel.parts[cut.part].name, cut, first, last)
            start += end - place

    def progress_at(self, number: int) -> ChannelProgress:
        """Return the channel's progress before its sample `number`: inside the turn of the sample before it."""
        if number == self.first:
            return self._progress
        epoch, first_part, place = self._place_in_turn(number - 1)
        cuts = self._cuts_of(first_part, epoch)
        next_part = self._progress.next_part if cuts == self._progress.cuts else cuts[-1].part + 1
        return ChannelProgress(cuts=cuts, num_taken=place + 1, epoch=epoch, next_part=next_part)

    def followed_by(self, terms: Terms, number: int) -> Stretch:
        """Return the stretch under other terms that begins at the channel's sample `number`."""
        return Stretch(self._turns, terms, self._cut_anew(self.progress_at(number), terms), number)

    def _cut_anew(self, progress: ChannelProgress, terms: Terms) -> ChannelProgress:
        """Cut the turn under way anew if its cuts do not follow the terms."""
        wanted = [(terms.seq_length, terms.quarantine.get(cut.part, ())) for cut in progress.cuts]
        if wanted == [(cut.seq_length, cut.quarantine) for cut in progress.cuts]:
            return progress
        taken = self._turns.num_taken_by_cut(progress.cuts, progress.num_taken)
        anew = (
            Cut(cut.part, cut.epoch, *rules, cut, count)
            for cut, rules, count in zip(progress.cuts, wanted, taken, strict=True)
        )
        return progress._replace(cuts=tuple(anew), num_taken=0)

    def _cuts_of(self, first_part: int, epoch: int) -> tuple[Cut, ...]:
        """Return the cuts of the turn that begins with a part."""
        cuts = self._progress.cuts
        if cuts and (cuts[0].part, cuts[0].epoch) == (first_part, epoch):
            return cuts
        parts = range(first_part, min(first_part + self._turns.window, self.terms.num_parts))
        return tuple(self.cut_of(part, epoch) for part in parts)

    def _before(self, part: int) -> int:
        """Count the samples of an epoch before a part."""
        return int(self._ends[part - 1]) if part else 0

    def _place_in_turn(self, number: int) -> tuple[int, int, int]:
        """Return the epoch and first part of the turn of one sample, and the sample's place in it."""
        epoch, first_part, place = (int(array[0]) for array in self._places_in_turns(np.array([number])))
        return epoch, first_part, place

    def _places_in_turns(self, numbers: npt.NDArray[np.int64]) -> _PlacesInTurns:
        """Find the turns of samples, given by their numbers in the channel, [n]."""
        # Negative in the epoch under way; from 0 on in the whole epochs after it.
        beyond = numbers - self.first - self._num_in_epoch
        epochs = np.where(beyond < 0, self._progress.epoch, self._progress.epoch + 1 + beyond // self.num_samples)
        # Place in the epoch. The one under way is counted from its end, because its first turns may have been cut
        # under other terms.
        in_epoch = np.where(beyond < 0, self.num_samples + beyond, beyond % self.num_samples)
        parts = np.searchsorted(self._ends, in_epoch, side="right")
        # Windows of parts are counted from the part at which whole turns begin: part 0, or in the epoch under way the
        # part behind the turn under way.
        origins = np.where(beyond < 0, self._progress.next_part, 0)
        # Samples left of the turn under way may seem to lie before the first part; they are corrected below.
        first_parts = np.maximum(parts - (parts - origins) % self._turns.window, 0)
        places = in_epoch - np.where(first_parts > 0, self._ends[first_parts - 1], 0)
        if self._progress.cuts:
            # The stretch begins with what is left of the turn under way.
            from_begin = numbers - self.first
            is_under_way = from_begin < self._num_left
            first_parts = np.where(is_under_way, self._progress.cuts[0].part, first_parts)
            places = np.where(is_under_way, from_begin + self._progress.num_taken, places)
        return _PlacesInTurns(epochs, first_parts.astype(np.int64), places)
