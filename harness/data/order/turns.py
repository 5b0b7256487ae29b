"""The parts of a channel and the samples of their turns, counted by arithmetic wherever that is enough.

A turn is the pass over one part in one epoch, or over the parts of one window together (see `harness.data.order.cuts`).
Nothing here depends on the progress of a run: the same cut always gives the same samples.

Shapes: P parts of the channel, C cuts of a turn, S samples of a turn, n samples that are asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from harness.channels.channels import Channel
from harness.channels.held_out import NOTHING, held_out_of
from harness.channels.parts import Part, check_width
from harness.data.files.checked import UsedPart
from harness.data.order.cuts import Cut, CutSamples, Quarantine
from harness.data.order.fitting import num_best_fit
from harness.data.order.growing import GrowingSums
from harness.data.order.packing import OpenPart, PartOpener
from harness.data.order.recipe import Recipe, rules_of
from harness.data.order.shuffle import permutation, shuffle_key
from harness.errors import DataError
from harness.plan.channel_tokens import num_end_to_end

_NUM_RECENT_TURNS = 2
"""Turns kept in memory for each channel: the current one, and its neighbour while a batch crosses from one to the
other."""

_AHEAD_BYTES = 4 << 30
_MOST_AHEAD = 64
"""Parts that are worth a look before their turn, counted from the current one: at least one further turn, more while
they are small."""


class ChannelTurns:
    """The parts of one channel and the samples that they make. Safe to use from several threads."""

    def __init__(self, channel: Channel, recipe: Recipe, open_part: PartOpener) -> None:
        """Count the tokens of every part. Opens the first part if documents of it are held out.

        Raises:
            DataError: A part cannot hold the vocabulary, or the first is damaged.
        """
        self.channel = channel
        self.vocab_size = recipe.vocab_size
        self._seed = recipe.seed
        self._open_part = open_part
        self._rules = rules_of(channel.name, recipe.rules)
        self.window = self._rules.window_parts
        """Number of parts that share a turn, with their samples mixed."""
        self._is_best_fit = self._rules.packing == "best_fit"
        self._num_best_fit: dict[tuple[int, int, Quarantine], int] = {}
        self._sums: dict[tuple[int, tuple[tuple[int, Quarantine], ...]], GrowingSums] = {}
        """Samples of an epoch up to the end of each part, by sequence length and quarantine."""
        self._recent: OrderedDict[Cut, CutSamples] = OrderedDict()
        self._ahead = lru_cache(maxsize=_NUM_RECENT_TURNS)(self._make_ahead)
        self._mix = lru_cache(maxsize=_NUM_RECENT_TURNS)(self._make_mix)
        self._lock = threading.RLock()
        check_width(channel.name, channel.parts, recipe.vocab_size)
        self.held_out = NOTHING
        if channel.validation_parts is None:
            share, by = recipe.held_out_share, recipe.held_out_by
            self.held_out = held_out_of(channel.parts[0], share, by, self._first_lengths)
        self.num_tokens = np.array([part.num_tokens for part in channel.parts], dtype=np.int64)
        """Tokens to train on in each part, [P]."""
        self.num_tokens[0] -= self.held_out.num_tokens
        self.part_digests = self._digests_of(channel.parts)
        """64-bit digest of the names of the channel and each part, uint64 [P]."""

    def extend(self, parts: tuple[Part, ...]) -> None:
        """Add parts behind those that the channel has.

        Raises:
            DataError: A part cannot hold the vocabulary.
        """
        check_width(self.channel.name, parts, self.vocab_size)
        with self._lock:
            more = np.array([part.num_tokens for part in parts], dtype=np.int64)
            self.num_tokens = np.concatenate((self.num_tokens, more))
            self.part_digests = np.concatenate((self.part_digests, self._digests_of(parts)))
            self.channel = replace(self.channel, parts=(*self.channel.parts, *parts))

    def num_documents(self, part: int) -> int:
        """Count the documents of a part that are not held out; they are the first ones of the part."""
        return self.channel.parts[part].num_documents - (self.held_out.num_documents if part == 0 else 0)

    def following(self, part: int) -> tuple[UsedPart, ...]:
        """Return the parts whose turns come with or after that of a part, as far ahead as is worth looking at them."""
        return self._ahead(part - part % self.window, len(self.channel.parts))

    def _make_ahead(self, first: int, num_parts: int) -> tuple[UsedPart, ...]:
        parts = self.channel.parts[:num_parts]
        ahead = [parts[(first + place) % len(parts)] for place in range(min(_MOST_AHEAD, len(parts)))]
        sizes = np.cumsum([each.bin_bytes for each in ahead])
        count = int(np.searchsorted(sizes, _AHEAD_BYTES)) + 1
        return tuple(UsedPart(self.channel.name, each) for each in ahead[: max(count, 2 * self.window + 1)])

    def number_of(self, part: str) -> int:
        """Return the number of the part with this name.

        Raises:
            DataError: The channel has no such part.
        """
        numbers = {each.name: number for number, each in enumerate(self.channel.parts)}
        if part not in numbers:
            raise DataError(
                f"channel {self.channel.name}: the history of the run names {part}, which is not among the channel's "
                f"{len(numbers)} parts. Put the part and its line in the list of parts back."
            )
        return numbers[part]

    def count(self, cut: Cut) -> int:
        """Count the samples of a cut.

        A part is opened only if documents went into quarantine in the middle of its turn. With best-fit packing, it is
        opened once for each sequence length and quarantine.

        Raises:
            DataError: A part that is opened is damaged.
        """
        if not self._is_best_fit:
            return num_end_to_end(self._tokens_of(cut), cut.seq_length)
        if cut.previous is not None:
            return len(self.samples(cut).samples)
        key = (cut.part, cut.seq_length, cut.quarantine)
        if key not in self._num_best_fit:
            held = [document for document, _ in cut.quarantine]
            documents = np.setdiff1d(np.arange(self.num_documents(cut.part)), held)
            self._num_best_fit[key] = num_best_fit(self.lengths_of(cut.part, documents), cut.seq_length)
        return self._num_best_fit[key]

    def ends(self, num_parts: int, seq_length: int, quarantine: Mapping[int, Quarantine]) -> npt.NDArray[np.int64]:
        """Count the samples of an epoch of the first parts up to the end of each part, [num_parts].

        Parts are counted once: where parts were added since, the array has the earlier one's numbers, in its memory.

        Raises:
            DataError: With best-fit packing, a part is damaged.
        """
        with self._lock:
            sums = self._sums.setdefault((seq_length, tuple(sorted(quarantine.items()))), GrowingSums())
            if len(sums) < num_parts:
                sums.add(self._counts(len(sums), num_parts, seq_length, quarantine))
            return sums.first(num_parts)

    def _counts(
        self, start: int, stop: int, seq_length: int, quarantine: Mapping[int, Quarantine]
    ) -> npt.NDArray[np.int64]:
        """Count the samples that undisturbed turns of parts `start … stop - 1` make, [stop - start]."""
        if self._is_best_fit:
            cuts = (Cut(part, 0, seq_length, quarantine.get(part, ())) for part in range(start, stop))
            return np.array([self.count(cut) for cut in cuts], dtype=np.int64)
        tokens = self.num_tokens[start:stop].copy()
        for part, documents in quarantine.items():
            if start <= part < stop:
                tokens[part - start] -= sum(number for _, number in documents)
        return np.maximum(tokens - 1, 0) // seq_length  # `num_end_to_end` for all parts at once

    def num_inputs(self, cut: Cut, start: int, stop: int) -> int:
        """Count the tokens that samples `start … stop - 1` of a cut take as input."""
        if self._is_best_fit:
            return self.samples(cut).num_inputs(start, stop)
        return (stop - start) * cut.seq_length

    def split_by_cut(
        self, cuts: tuple[Cut, ...], places_in_turn: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Find samples of a turn in its cuts.

        Args:
            cuts: The cuts of the turn, one for each part of the window.
            places_in_turn: Numbers of the samples in the turn, [n].

        Returns:
            The cut of each sample, as an index into `cuts`, and the sample's number in that cut; [n] each.
        """
        if len(cuts) == 1:
            return np.zeros_like(places_in_turn), places_in_turn
        owners, places_in_cut = self._mix(cuts)
        return owners[places_in_turn], places_in_cut[places_in_turn]

    def num_taken_by_cut(self, cuts: tuple[Cut, ...], num_taken: int) -> list[int]:
        """Count by cut the first `num_taken` samples of a turn."""
        if len(cuts) == 1:
            return [num_taken]
        counts: list[int] = np.bincount(self._mix(cuts)[0][:num_taken], minlength=len(cuts)).tolist()
        return counts

    def samples(self, cut: Cut) -> CutSamples:
        """Open the part of a cut and make its samples, or return them from memory.

        Raises:
            DataError: The part is damaged.
        """
        with self._lock:
            made = self._recent.pop(cut, None) or self._make(cut)
            self._recent[cut] = made
            while len(self._recent) > _NUM_RECENT_TURNS * self.window:
                self._recent.popitem(last=False)
            return made

    @contextmanager
    def naming_the_channel(self) -> Iterator[None]:
        """Put the channel's name in front of the message of a `DataError`."""
        try:
            yield
        except DataError as error:
            raise DataError(f"channel {self.channel.name}: {error}") from error

    def lengths_of(self, part: int, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
        """Return the tokens of each of these documents of a part, [len(documents)].

        Raises:
            DataError: The part is damaged.
        """
        return self._open(part).lengths_of(documents)

    def _tokens_of(self, cut: Cut) -> int:
        if cut.previous is None:
            return int(self.num_tokens[cut.part]) - sum(tokens for _, tokens in cut.quarantine)
        if cut.previous.quarantine == cut.quarantine:
            return self._tokens_of(cut.previous) - cut.num_taken * cut.previous.seq_length
        return self.samples(cut).num_tokens

    def _make_mix(self, cuts: tuple[Cut, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Mix the samples of a turn of several parts: the cut of each sample, and its number in that cut, [S] each."""
        ends = np.cumsum([self.count(cut) for cut in cuts])  # [C]
        parts = [self.channel.parts[cut.part].name for cut in cuts]
        key = shuffle_key("window", self._seed, self.channel.name, cuts[0].epoch, cuts[0].number, *parts)
        # Shuffle which cut comes next, not which sample: each cut has shuffled its own samples already.
        owners = np.searchsorted(ends, permutation(int(ends[-1]), key), side="right").astype(np.int64)  # [S]
        # The k-th time that a cut comes, it gives its k-th sample.
        places_in_cut = np.empty_like(owners)
        for owner in range(len(cuts)):
            mine = np.flatnonzero(owners == owner)
            places_in_cut[mine] = np.arange(len(mine))
        return owners, places_in_cut

    def _make(self, cut: Cut) -> CutSamples:
        opened = self._open(cut.part)
        names = (self._seed, self.channel.name, opened.part.name, cut.epoch)
        return CutSamples(cut, opened, self.num_documents(cut.part), names, self._rules)

    def _open(self, part: int) -> OpenPart:
        with self.naming_the_channel():
            return self._open_part(self.channel.parts[part], self.vocab_size)

    def _digests_of(self, parts: tuple[Part, ...]) -> npt.NDArray[np.uint64]:
        names = (f"{self.channel.name}\0{part.name}" for part in parts)
        return np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in names], dtype=np.uint64)

    def _first_lengths(self, first: int, behind: int) -> list[int]:
        """Return the tokens of these documents of the first part."""
        return [int(length) for length in self.lengths_of(0, np.arange(first, behind))]
