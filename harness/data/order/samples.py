"""The order of the samples of a run: the blends of its phases and the orders of its channels put together.

The order is a chain of *courses*. Over a course the channels keep the same exact shares, and one table of the blend
assigns its samples to channels. A course ends where a phase begins, and where a share changes because a channel begins
an epoch, is used up, or gets further parts. Courses are not recorded anywhere: the begin of the next one follows from
the table.

Shapes: n samples that are asked for, C channels of the run.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import xxhash

from harness.channels.channels import Channel
from harness.data.files.checked import UsedPart
from harness.data.files.document_table import DocumentSpan
from harness.data.order.blend_table import Blend, make_blend
from harness.data.order.channel_order import ChannelOrder, Sample, SampleAddress
from harness.data.order.cursor import Positions
from harness.data.order.growing import owners_of
from harness.data.order.packing import PartOpener
from harness.data.order.recipe import Recipe, current_shares, rules_of
from harness.data.order.stretch import ChannelSamples, CutRange, joined
from harness.data.order.turns import ChannelTurns
from harness.errors import DataError
from harness.run.order_changes import Change, History, PhaseBegun, num_parts_of, num_same


@dataclass(frozen=True, kw_only=True, eq=False)
class LocatedSamples(ChannelSamples):
    """Addresses of n samples of the run as arrays [n]; channels and parts by their numbers."""

    channels: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    """Number of the sample among those of its channel."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.channels)

    def __getitem__(self, chosen: slice | npt.NDArray[np.integer]) -> LocatedSamples:
        """Return some of the samples."""
        return LocatedSamples(**{name: array[chosen] for name, array in vars(self).items()})

    def rows(self) -> list[tuple[int, Sample]]:
        """Return the samples one by one, each with the number of its channel."""
        samples = map(Sample, *(a.tolist() for a in (self.numbers, self.parts, self.epochs, self.indices)))
        return list(zip(self.channels.tolist(), samples, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSample:
    """A sample of the run with its origin and its tokens."""

    position: int
    """In the order of the run's samples."""
    address: SampleAddress
    documents: tuple[DocumentSpan, ...]
    """The pieces of documents that it is made of, its last label included."""
    tokens: npt.NDArray[np.int64]
    """[seq_length + 1], fewer if the documents do not fill it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Course:
    """The positions from `first` on over which the channels keep the same shares."""

    first: int
    phase: int
    blend: Blend | None
    """None: no sample can be drawn."""
    channels: npt.NDArray[np.int64]
    """Number in the run of each channel of the blend."""
    drawn: tuple[int, ...]
    """Samples of each channel of the run before the course, [C]."""
    shares: Mapping[str, Fraction] = field(default_factory=dict)
    waits_for: tuple[str, ...] = ()
    """Channels that must get further parts before anything can be drawn."""


def open_turns(channels: Sequence[Channel], recipe: Recipe, open_part: PartOpener) -> list[ChannelTurns]:
    """Open the channels that a recipe uses, in the order of their numbers.

    Raises:
        DataError: A channel is missing, damaged, or too small for one sample of a phase that uses it.
    """
    by_name = {channel.name: channel for channel in channels}
    missing = [name for name in recipe.channel_names if name not in by_name]
    if missing:
        raise DataError(
            f"the blend uses channel {missing[0]}, which is not open; open "
            f"channels: {', '.join(by_name) or 'none'}. List it under `data.channels`."
        )
    turns = [ChannelTurns(by_name[name], recipe, open_part) for name in recipe.channel_names]
    for each in turns:
        for phase in recipe.phases:
            if each.channel.name in phase.shares:
                ChannelOrder(each, phase.seq_length)  # checked now, or a late phase would stop the run after weeks
    return turns


class SampleOrder:
    """The sample order of a run: a pure function of recipe, parts and history. Safe to use from several threads."""

    def __init__(self, turns: Sequence[ChannelTurns], recipe: Recipe, history: History = ()) -> None:
        """Begin the order of channels that `open_turns` has opened.

        Channels for which the history adopts no parts begin with all parts of `turns`.

        Raises:
            DataError: A channel is too small for one sample, or lacks parts that the history names.
        """
        self.recipe = recipe
        self.channel_names = recipe.channel_names
        adopted = num_parts_of(takewhile(lambda change: change.position == 0, history))
        self._begun_with = tuple(adopted.get(each.channel.name, len(each.channel.parts)) for each in turns)
        lengths = [
            next(phase.seq_length for phase in recipe.phases if name in phase.shares) for name in self.channel_names
        ]
        self._orders = [
            ChannelOrder(each, length, adopted.get(each.channel.name))
            for each, length in zip(turns, lengths, strict=True)
        ]
        self._changes = history
        self._num_applied = 0
        self._lock = threading.Lock()
        self._courses: list[_Course] = []
        self._firsts: list[int] = []
        self._end: int | None = 0
        """Position at which the last course ends; None: it has no end."""
        self._begin_course(0, 0, (0,) * len(turns))

    def under(self, history: History) -> SampleOrder:
        """Return the order under another history. It is the same up to the first change that differs.

        So a change costs what follows it, and not what the run has behind it.

        Raises:
            DataError: As when an order begins.
        """
        turns = [order.turns for order in self._orders]
        position = _first_difference(self._changes, history)
        if position is None:
            return self
        adopted = num_parts_of(takewhile(lambda change: change.position == 0, history))
        begun_with = tuple(adopted.get(each.channel.name, len(each.channel.parts)) for each in turns)
        if not position or begun_with != self._begun_with:
            return SampleOrder(turns, self.recipe, history)
        self._extend_to(position - 1)
        same = SampleOrder.__new__(SampleOrder)
        same.recipe, same.channel_names, same._begun_with = self.recipe, self.channel_names, begun_with
        same._changes, same._lock = history, threading.Lock()
        same._num_applied = bisect_left(history, position, key=lambda change: change.position)
        with self._lock:
            count = bisect_left(self._firsts, position)
            same._courses, same._firsts = self._courses[:count], self._firsts[:count]
            same._orders = [order.before(position) for order in self._orders]
        same._end = position
        return same

    def locate(self, positions: Positions) -> LocatedSamples:
        """Return the addresses of the samples at these positions of the run, [n].

        Raises:
            DataError: A part whose turn has come is damaged, or no sample can be drawn for want of parts.
        """
        if len(positions):
            self._extend_to(int(positions.max()))
        channels, numbers = np.empty_like(positions), np.empty_like(positions)
        # First the channel of each sample and its number there, by the table of the course that it lies in.
        owners = owners_of(self._firsts, positions)  # [n]
        for owner in np.unique(owners).tolist():
            course, chosen = self._courses[owner], owners == owner
            if course.blend is None:
                raise self._nothing_left(course)
            in_blend, counts = course.blend.channels_of(positions[chosen] - course.first)
            channels[chosen] = course.channels[in_blend]
            numbers[chosen] = np.asarray(course.drawn, dtype=np.int64)[course.channels[in_blend]] + counts
        # Then its address in the channel.
        found = joined(channels, lambda channel, chosen: self._orders[channel].locate(numbers[chosen]))
        return LocatedSamples(channels=channels, numbers=numbers, **vars(found))

    def lacks_parts_of(self, positions: Positions) -> tuple[str, ...]:
        """Return the channels that must get further parts before samples at these rising positions can be drawn."""
        last = int(positions[-1])
        self._extend_to(last)
        return self._courses[bisect_right(self._firsts, last) - 1].waits_for

    def batch_hash(self, samples: LocatedSamples) -> int:
        """Return XXH3 (64 bits) of the samples' identities in order: digest of the part, epoch, and salted index."""
        identities = np.empty((len(samples), 3), dtype="<u8")  # little-endian, so that every machine hashes the same
        for channel in np.unique(samples.channels).tolist():
            chosen = samples.channels == channel
            identities[chosen, 0] = self._orders[channel].turns.part_digests[samples.parts[chosen]]
        identities[:, 1] = samples.epochs
        identities[:, 2] = samples.indices.astype(np.uint64) + samples.salts
        return int(xxhash.xxh3_64_intdigest(identities.tobytes()))

    def addresses(self, samples: LocatedSamples) -> list[SampleAddress]:
        """Return the addresses with the names of channels and parts in place of their numbers."""
        return [
            SampleAddress(
                channel=self.channel_names[channel],
                part=self._orders[channel].turns.channel.parts[sample.part].name,
                epoch=sample.epoch,
                index=sample.packed_index,
            )
            for channel, sample in samples.rows()
        ]

    def parts_of(self, samples: LocatedSamples) -> tuple[tuple[UsedPart, ...], dict[str, tuple[UsedPart, ...]]]:
        """Return the parts that hold these samples, and by channel those whose turns come next."""
        used: list[UsedPart] = []
        following: dict[str, tuple[UsedPart, ...]] = {}
        for channel in np.unique(samples.channels).tolist():
            parts, turns = samples.parts[samples.channels == channel], self._orders[channel].turns
            name, known = turns.channel.name, turns.channel.parts
            used += [UsedPart(name, known[number]) for number in np.unique(parts).tolist()]
            following[name] = turns.following(int(parts[-1]))
        return tuple(used), following

    def documents_of(self, samples: LocatedSamples) -> list[list[DocumentSpan]]:
        """Return for each sample the pieces of documents that it is made of, its last label included."""
        return [self._orders[channel].documents_of(sample) for channel, sample in samples.rows()]

    def read(self, samples: LocatedSamples, out: npt.NDArray[np.int64]) -> list[list[int]]:
        """Copy the tokens of n samples of one phase into `out` [n, seq_length + 1].

        Returns:
            For each sample, the number of tokens of each of its documents.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        rows = zip(samples.rows(), out, strict=True)
        return [self._orders[channel].read(sample, row) for (channel, sample), row in rows]

    def read_at(self, positions: Positions, seq_length: int) -> tuple[ReadSample, ...]:
        """Read the samples of one phase at these positions, [n].

        Raises:
            DataError: A part is damaged, or a token id lies outside the vocabulary.
        """
        located = self.locate(positions)
        rows = np.empty((len(located), seq_length + 1), dtype=np.int64)
        counts = self.read(located, out=rows)
        origins = zip(positions.tolist(), self.addresses(located), self.documents_of(located), strict=True)
        return tuple(
            ReadSample(position=position, address=address, documents=tuple(documents), tokens=row[: sum(count)])
            for (position, address, documents), row, count in zip(origins, rows, counts, strict=True)
        )

    def drawn(self, num_positions: int) -> tuple[int, ...]:
        """Count by channel the samples at the first `num_positions` positions, skipped ones included, [C]."""
        self._extend_to(num_positions)
        course = self._courses[max(0, bisect_right(self._firsts, num_positions) - 1)]
        return self._drawn_in(course, num_positions)

    def cut_ranges(self, start: int, stop: int) -> Iterator[tuple[str, CutRange]]:
        """Yield the samples at positions `start … stop - 1`, channel by channel and cut by cut; opens no part."""
        numbers = zip(self.drawn(start), self.drawn(stop), strict=True)
        for name, order, (first, behind) in zip(self.channel_names, self._orders, numbers, strict=True):
            for cut_range in order.cut_ranges(first, behind):
                yield name, cut_range

    def turns_of(self, channel: str) -> ChannelTurns:
        """Return the parts of a channel.

        Raises:
            DataError: The run has no such channel.
        """
        if channel not in self.channel_names:
            raise DataError(f"the run has no channel {channel}; its channels: {', '.join(self.channel_names)}.")
        return self._orders[self.channel_names.index(channel)].turns

    def epochs(self, ranges: Iterable[tuple[int, int]]) -> dict[str, float]:
        """Return the passes over each channel that the samples at these half-open ranges of positions make.

        It is the one count of epochs: of what is trained on, without skipped samples, in samples of an epoch, without
        held-out documents.
        """
        passes = dict.fromkeys(self.channel_names, 0.0)
        for start, stop in ranges:
            numbers = zip(self.channel_names, self._orders, self.drawn(start), self.drawn(stop), strict=True)
            for name, order, before, behind in numbers:
                passes[name] += order.passes(behind) - order.passes(before)
        return passes

    def _extend_to(self, position: int) -> None:
        """Derive the courses up to the one that holds the position."""
        with self._lock:
            while self._end is not None and self._end <= position:
                course = self._courses[-1]
                self._begin_course(self._end, course.phase, self._drawn_in(course, self._end))

    def _begin_course(self, first: int, phase: int, drawn: tuple[int, ...]) -> None:
        """Apply the changes at position `first`, and begin a course there unless the last one continues.

        `phase` is the phase before it, and `drawn` has the samples of each channel before it, [C].
        """
        changes = self._changes_at(first)
        phase = next((change.phase for change in reversed(changes) if isinstance(change, PhaseBegun)), phase)
        recipe = self.recipe.phases[phase]
        for order, name, number in zip(self._orders, self.channel_names, drawn, strict=True):
            seq_length = recipe.seq_length if name in recipe.shares else order.last.terms.seq_length
            order.change(first, number, seq_length, changes)
        epochs = {
            name: order.last.epoch_of(number)
            for name, order, number in zip(self.channel_names, self._orders, drawn, strict=True)
        }
        waits_for = self._waits_for(recipe.shares, epochs)
        shares = {} if waits_for else current_shares(recipe.shares, epochs, self.recipe.rules)
        if self._continues(shares, changes):
            self._end = self._end_of(self._courses[-1], epochs)
            return
        course = _Course(
            first=first,
            phase=phase,
            blend=_blend(tuple(shares.items())) if shares else None,
            channels=np.array([self.channel_names.index(name) for name in shares], dtype=np.int64),
            drawn=drawn,
            shares=shares,
            waits_for=waits_for or (() if shares else tuple(recipe.shares)),
        )
        self._courses.append(course)
        self._firsts.append(first)
        self._end = self._end_of(course, epochs)

    def _continues(self, shares: Mapping[str, Fraction], changes: Sequence[Change]) -> bool:
        """Return whether the last course continues, because no share changed.

        A table that began anew at every change could not keep the shares.
        """
        has_begun = any(isinstance(change, PhaseBegun) for change in changes)
        return bool(self._courses and shares and not has_begun and self._courses[-1].shares == shares)

    def _changes_at(self, position: int) -> tuple[Change, ...]:
        """Return the changes up to a position that have not been applied, and count them as applied."""
        begin = self._num_applied
        while self._num_applied < len(self._changes) and self._changes[self._num_applied].position <= position:
            self._num_applied += 1
        return self._changes[begin : self._num_applied]

    def _waits_for(self, shares: Mapping[str, Fraction], epochs: Mapping[str, int]) -> tuple[str, ...]:
        """Return the channels that are used up and whose rules say to wait for further parts."""
        rules = {name: rules_of(name, self.recipe.rules) for name in shares}
        return tuple(name for name in shares if rules[name].when_low == "wait" and rules[name].is_used_up(epochs[name]))

    def _end_of(self, course: _Course, epochs: Mapping[str, int]) -> int | None:
        """Return the begin of the next course: the next change, or the first sample at which a share changes."""
        ends = [self._changes[self._num_applied].position] if self._num_applied < len(self._changes) else []
        if course.blend is not None:
            for in_blend, channel in enumerate(course.channels.tolist()):
                name, order = self.channel_names[channel], self._orders[channel]
                rules = rules_of(name, self.recipe.rules)
                next_epoch = epochs[name] + 1 if rules.epoch_decay != 1 else rules.last_epoch
                if next_epoch is not None:
                    first_of_it = order.last.begin_of(next_epoch) - course.drawn[channel]
                    ends.append(course.first + course.blend.sample_of(in_blend, first_of_it))
        return min(ends, default=None)

    def _drawn_in(self, course: _Course, position: int) -> tuple[int, ...]:
        """Count the samples of each channel before a position in a course, [C]."""
        if course.blend is None:
            return course.drawn
        drawn = np.array(course.drawn, dtype=np.int64)
        drawn[course.channels] += np.array(course.blend.counts(position - course.first), dtype=np.int64)
        return tuple(drawn.tolist())

    def _nothing_left(self, course: _Course) -> DataError:
        names = ", ".join(course.waits_for)
        return DataError(
            f"no sample can be drawn at position {course.first} of phase {course.phase}: every allowed pass through "
            f"{names} is used up. Add parts, or raise `data.channels.<name>.max_epochs`."
        )


def _first_difference(one: History, other: History) -> int | None:
    """Return the position of the first change that two histories do not share; None if they are the same."""
    count = num_same(one, other)
    differing = [change.position for change in (*one[count : count + 1], *other[count : count + 1])]
    return min(differing, default=None)


@lru_cache(maxsize=64)
def _blend(shares: tuple[tuple[str, Fraction], ...]) -> Blend:
    return make_blend(dict(shares))
