"""The order of the samples in one channel: a chain of stretches, over each of which the terms stay the same.

The parts of a channel follow each other in the order in which they were adopted. After the last part the next epoch
begins. `harness.data.order.cuts` describes the turn of a part, and its new cut where the terms change.

Shapes: n samples that are asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.files.document_table import DocumentSpan
from harness.data.order.cuts import CutSamples, Quarantine
from harness.data.order.growing import owners_of
from harness.data.order.stretch import START, ChannelSamples, CutRange, Stretch, Terms, joined
from harness.data.order.turns import ChannelTurns
from harness.run.order_changes import Change, DocumentsQuarantined, PartsAdopted, PhaseBegun


@dataclass(frozen=True, kw_only=True)
class SampleAddress:
    """The identity of a sample: `index` is its number among the packed samples of that part in that epoch."""

    channel: str
    part: str
    epoch: int
    index: int

    def to_json(self) -> dict[str, str | int]:
        """Return the address as it stands in evidence."""
        return {"channel": self.channel, "part": self.part, "epoch": self.epoch, "sample": self.index}


class Sample(NamedTuple):
    """A sample of a channel that has been located."""

    number: int
    """Number among the samples of its channel."""
    part: int
    epoch: int
    packed_index: int
    """Number among the packed samples of the part's turn, before they are shuffled."""


class ChannelOrder:
    """The order of the samples in one channel. Samples are numbered from the first one of the run."""

    def __init__(self, turns: ChannelTurns, seq_length: int, num_parts: int | None = None) -> None:
        """Begin with the first `num_parts` parts of a channel, by default with all.

        Raises:
            DataError: No part holds a whole sample.
        """
        self.turns = turns
        terms = Terms(seq_length=seq_length, num_parts=num_parts or len(turns.channel.parts))
        self._stretches = [Stretch(turns, terms, START, 0)]
        self._firsts = [0]
        self._begun_at = [-1]
        """Position in the run at which each stretch began; the first one before all."""

    @property
    def last(self) -> Stretch:
        """The last stretch, which has no end yet."""
        return self._stretches[-1]

    def before(self, position: int) -> ChannelOrder:
        """Return the order without the stretches that began at a position of the run or behind it."""
        count = bisect_left(self._begun_at, position)
        same = ChannelOrder.__new__(ChannelOrder)
        same.turns = self.turns
        same._stretches, same._firsts = self._stretches[:count], self._firsts[:count]
        same._begun_at = self._begun_at[:count]
        return same

    def change(self, position: int, number: int, seq_length: int, changes: tuple[Change, ...]) -> None:
        """Apply changes of the history, and a sequence length, at a position of the run.

        They hold from the channel's sample `number` on.
        """
        terms = replace(self.last.terms, seq_length=seq_length)
        for change in changes:
            terms = self._changed(terms, change)
        if terms != self.last.terms:
            self._stretches.append(self.last.followed_by(terms, number))
            self._firsts.append(number)
            self._begun_at.append(position)

    def locate(self, numbers: npt.NDArray[np.int64]) -> ChannelSamples:
        """Return the addresses of the channel's samples with these numbers, [n].

        Raises:
            DataError: A part whose turn has come is damaged.
        """
        if len(self._stretches) == 1:
            return self._stretches[0].locate(numbers)  # another thread may be adding one
        owners = owners_of(self._firsts, numbers)  # [n], stretch that each sample lies in
        return joined(owners, lambda owner, chosen: self._stretches[owner].locate(numbers[chosen]))

    def cut_ranges(self, start: int, stop: int) -> Iterator[CutRange]:
        """Yield the channel's samples `start … stop - 1`, turn by turn and cut by cut."""
        for first, behind, stretch in zip(self._firsts, [*self._firsts[1:], stop], self._stretches, strict=True):
            yield from stretch.cut_ranges(max(start, first), min(stop, behind))

    def passes(self, num_drawn: int) -> float:
        """Return how many passes over the channel its first `num_drawn` samples are, as a fraction of epochs."""
        return self._stretch_of(max(0, num_drawn - 1)).passes(num_drawn)

    def documents_of(self, sample: Sample) -> list[DocumentSpan]:
        """Return the pieces of documents that a sample is made of, its last label included."""
        return self._cut_samples(sample).spans(sample.packed_index)

    def read(self, sample: Sample, out: npt.NDArray[np.int64]) -> list[int]:
        """Copy the seq_length + 1 tokens of a sample into `out`; return the number of each document's tokens.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        with self.turns.naming_the_channel():
            return self._cut_samples(sample).read(sample.packed_index, out, self.turns.vocab_size)

    def _cut_samples(self, sample: Sample) -> CutSamples:
        return self.turns.samples(self._stretch_of(sample.number).cut_of(sample.part, sample.epoch))

    def _stretch_of(self, number: int) -> Stretch:
        return self._stretches[bisect_right(self._firsts, number) - 1]

    def _changed(self, terms: Terms, change: Change) -> Terms:
        """Return the terms after a change of the history, which may be of another channel."""
        channel = self.turns.channel
        if not isinstance(change, PhaseBegun) and change.channel == channel.name:
            if isinstance(change, PartsAdopted):
                return replace(terms, num_parts=change.num_parts)
            return replace(terms, quarantine=self._quarantined(terms.quarantine, change))
        return terms

    def _quarantined(self, held: Mapping[int, Quarantine], change: DocumentsQuarantined) -> dict[int, Quarantine]:
        """Return what is in quarantine after documents were added or released."""
        part = self.turns.number_of(change.part)
        documents = dict(held.get(part, ()))
        for document, tokens in zip(change.documents, change.tokens, strict=True):
            documents.pop(document, None)
            if not change.is_lifted and document < self.turns.num_documents(part):  # held-out ones are in no sample
                documents[document] = tokens
        quarantined = {**held, part: tuple(sorted(documents.items()))}
        return {number: inside for number, inside in quarantined.items() if inside}
