"""How a row of tokens is cut into samples: end to end, or documents whole wherever they fit.

A layout says for every sample which stretches of the row it is made of, and which tokens it takes as input.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.data.order import intervals
from harness.data.order.intervals import Intervals
from harness.data.order.shuffle import ItemNumbers


class SampleLayout(Protocol):
    """Samples in the order of the row, before they are shuffled."""

    num_samples: int

    def stretches(self, index: int) -> list[tuple[int, int]]:
        """The half-open stretches of the row that a sample is made of, its last label included."""
        ...

    def inputs(self, chosen: ItemNumbers) -> Intervals:
        """The tokens of the row that samples take as input."""
        ...


class EndToEnd:
    """The tokens laid end to end and cut every seq_length tokens; samples overlap by one token, a label."""

    def __init__(self, tokens: Intervals, seq_length: int) -> None:
        self._tokens = tokens
        self._seq_length = seq_length
        self._ends = np.cumsum(tokens[:, 1] - tokens[:, 0])
        self.num_samples = num_end_to_end(intervals.total(tokens), seq_length)

    def stretches(self, index: int) -> list[tuple[int, int]]:
        """See `SampleLayout`."""
        start, length = index * self._seq_length, self._seq_length + 1
        found = []
        piece = int(self._ends.searchsorted(start, side="right"))
        while length:
            first, stop = self._tokens[piece].tolist()
            begin = first + start - (int(self._ends[piece - 1]) if piece else 0)
            taken = min(length, stop - begin)
            found.append((begin, begin + taken))
            start, length, piece = start + taken, length - taken, piece + 1
        return found

    def inputs(self, chosen: ItemNumbers) -> Intervals:
        """See `SampleLayout`."""
        starts = np.sort(chosen).astype(np.int64) * self._seq_length
        return intervals.places_in(self._tokens, starts, starts + self._seq_length)


class BestFit:
    """Documents whole in as few samples as a best fit finds, the longest first; what is left of a sample is padding.

    Only a document longer than a sample is cut, every seq_length tokens with a label's overlap; its last piece is
    treated like a document.
    """

    def __init__(self, tokens: Intervals, document_ends: npt.NDArray[np.int64], seq_length: int) -> None:
        self._seq_length = seq_length
        self._pieces = _pieces(tokens, document_ends, seq_length)
        lengths = self._pieces[:, 1] - self._pieces[:, 0]
        order = np.argsort(-lengths, kind="stable")
        samples = best_fit(lengths[order].tolist(), seq_length + 1)
        self.num_samples = max(samples, default=-1) + 1
        by_sample = np.empty(len(order), dtype=np.int64)
        by_sample[order] = samples
        self._sorted = np.argsort(by_sample, kind="stable")
        self._borders = np.searchsorted(by_sample[self._sorted], np.arange(self.num_samples + 1))

    def stretches(self, index: int) -> list[tuple[int, int]]:
        """See `SampleLayout`."""
        mine = self._sorted[self._borders[index] : self._borders[index + 1]]
        return [(start, stop) for start, stop in self._pieces[mine].tolist()]

    def inputs(self, chosen: ItemNumbers) -> Intervals:
        """See `SampleLayout`. Of a piece that goes on in another sample all but the overlap, of others all."""
        mine = [self._sorted[self._borders[index] : self._borders[index + 1]] for index in chosen.tolist()]
        numbers = np.sort(np.concatenate(mine)) if mine else np.empty(0, dtype=np.int64)
        starts, stops = self._pieces[numbers].T
        return intervals.merged(starts, np.where(self._goes_on(numbers), stops - 1, stops))

    def _goes_on(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        following = np.minimum(numbers + 1, len(self._pieces) - 1)
        goes_on: npt.NDArray[np.bool_] = (following > numbers) & (self._pieces[following, 0] < self._pieces[numbers, 1])
        return goes_on


def num_end_to_end(num_tokens: int, seq_length: int) -> int:
    """Samples that tokens laid end to end make."""
    return max(0, num_tokens - 1) // seq_length


def best_fit(lengths: Sequence[int], capacity: int) -> list[int]:
    """The sample of each piece, pieces given by falling length: the one with the least room that is still enough.

    Of samples with equal room the one that got its last piece last. A piece that fits nowhere opens a sample.
    """
    rooms: list[int] = []
    by_room: dict[int, list[int]] = {}
    samples = []
    num_samples = 0
    for length in lengths:
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, sample, num_samples = capacity, num_samples, num_samples + 1
        else:
            room = rooms[place]
            sample = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        left = room - length
        if left:
            if left not in by_room:
                insort(rooms, left)
                by_room[left] = []
            by_room[left].append(sample)
        samples.append(sample)
    return samples


def num_best_fit(lengths: npt.NDArray[np.integer], seq_length: int) -> int:
    """Samples that whole documents of these lengths make."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return BestFit(intervals.whole(total), ends, seq_length).num_samples


def _pieces(tokens: Intervals, document_ends: npt.NDArray[np.int64], seq_length: int) -> Intervals:
    """The tokens cut at the borders of documents, and what is longer than a sample in between; may overlap by one."""
    borders = document_ends[(document_ends > 0)]
    starts = np.unique(np.concatenate((tokens[:, 0], borders)))
    starts = starts[
        np.searchsorted(tokens[:, 0], starts, side="right") > np.searchsorted(tokens[:, 1], starts, "right")
    ]
    owner = np.searchsorted(tokens[:, 0], starts, side="right") - 1
    following = np.searchsorted(document_ends, starts, side="right")
    stops = np.minimum(tokens[owner, 1], document_ends[np.minimum(following, len(document_ends) - 1)])
    num_chunks = np.maximum(1, -(-(stops - starts - 1) // seq_length))
    first = np.repeat(np.cumsum(num_chunks) - num_chunks, num_chunks)
    begins = np.repeat(starts, num_chunks) + (np.arange(num_chunks.sum()) - first) * seq_length
    return np.stack((begins, np.minimum(begins + seq_length + 1, np.repeat(stops, num_chunks))), axis=1)
