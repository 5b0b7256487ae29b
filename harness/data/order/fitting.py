"""Layouts: the cutting of a row of tokens into samples, end to end or with whole documents.

A layout says which ranges of the row each sample is made of, and which tokens the samples take as input.

Shapes: I intervals of the row, P pieces, D documents, N samples.
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
from harness.plan.channel_tokens import num_end_to_end


class SampleLayout(Protocol):
    """Samples in the order of the row, before they are shuffled."""

    num_samples: int

    def row_ranges(self, index: int) -> list[tuple[int, int]]:
        """Return the half-open ranges of the row that a sample is made of, its last label included."""

    def inputs(self, chosen: ItemNumbers) -> Intervals:
        """Return the tokens of the row that these samples take as input."""


class EndToEnd:
    """Tokens laid end to end and cut every seq_length tokens; a sample's last label is the first token of the next."""

    def __init__(self, tokens: Intervals, seq_length: int) -> None:
        self._tokens = tokens  # [I, 2], in the row
        self._seq_length = seq_length
        self._ends = np.cumsum(tokens[:, 1] - tokens[:, 0])  # [I], tokens up to the end of each interval
        self.num_samples = num_end_to_end(intervals.total(tokens), seq_length)

    def row_ranges(self, index: int) -> list[tuple[int, int]]:
        """See `SampleLayout`."""
        start, length = index * self._seq_length, self._seq_length + 1
        found = []
        # Walk over the intervals from the one that holds the sample's first token until the sample is full.
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
        starts = np.sort(chosen).astype(np.int64) * self._seq_length  # [len(chosen)]
        return intervals.places_in(self._tokens, starts, starts + self._seq_length)


class BestFit:
    """Whole documents, packed into few samples: the longest first, each into the sample with the least room that fits.

    Only a document longer than a sample is cut, every seq_length tokens with one token of overlap for the label. Its
    last piece is treated like a document. The room that is left in a sample is padding.
    """

    def __init__(self, tokens: Intervals, document_ends: npt.NDArray[np.int64], seq_length: int) -> None:
        self._seq_length = seq_length
        self._pieces = _pieces(tokens, document_ends, seq_length)  # [P, 2], in the row
        lengths = self._pieces[:, 1] - self._pieces[:, 0]  # [P]
        order = np.argsort(-lengths, kind="stable")  # [P], pieces from the longest to the shortest
        samples = best_fit(lengths[order].tolist(), seq_length + 1)
        self.num_samples = max(samples, default=-1) + 1
        # Undo the sort: the sample of each piece, with pieces in the order of the row again.
        by_sample = np.empty(len(order), dtype=np.int64)  # [P]
        by_sample[order] = samples
        # The pieces of sample i are `_sorted[_borders[i] : _borders[i + 1]]`; the stable sort keeps their row order.
        self._sorted = np.argsort(by_sample, kind="stable")  # [P]
        self._borders = np.searchsorted(by_sample[self._sorted], np.arange(self.num_samples + 1))  # [N + 1]

    def row_ranges(self, index: int) -> list[tuple[int, int]]:
        """See `SampleLayout`."""
        mine = self._sorted[self._borders[index] : self._borders[index + 1]]
        return [(start, stop) for start, stop in self._pieces[mine].tolist()]

    def inputs(self, chosen: ItemNumbers) -> Intervals:
        """See `SampleLayout`. A piece that continues in another sample gives all but the overlap, any other all."""
        mine = [self._sorted[self._borders[index] : self._borders[index + 1]] for index in chosen.tolist()]
        numbers = np.sort(np.concatenate(mine)) if mine else np.empty(0, dtype=np.int64)
        starts, stops = self._pieces[numbers].T
        return intervals.merged(starts, np.where(self._continues(numbers), stops - 1, stops))

    def _continues(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return for each piece whether the next one overlaps it, which only pieces of one document do."""
        following = np.minimum(numbers + 1, len(self._pieces) - 1)
        overlaps = self._pieces[following, 0] < self._pieces[numbers, 1]
        continues: npt.NDArray[np.bool_] = (following > numbers) & overlaps
        return continues


def best_fit(lengths: Sequence[int], capacity: int) -> list[int]:
    """Return the sample that each piece goes into, for pieces given from the longest to the shortest.

    A piece goes into the sample with the least room that is still enough. Of samples with equal room it takes the one
    that got its last piece last. A piece that fits nowhere opens a sample.
    """
    rooms: list[int] = []  # the distinct sizes of room that are left, rising
    by_room: dict[int, list[int]] = {}  # for each of them its samples, the one that changed last at the end
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
    """Count the samples that whole documents of these lengths [D] make."""
    ends = np.cumsum(lengths, dtype=np.int64)  # [D]
    total = int(ends[-1]) if len(ends) else 0
    return BestFit(intervals.whole(total), ends, seq_length).num_samples


def _pieces(tokens: Intervals, document_ends: npt.NDArray[np.int64], seq_length: int) -> Intervals:
    """Cut tokens [I, 2] at the borders of documents [D], and what is longer than a sample every seq_length tokens.

    Returns:
        The pieces in the order of the row, [P, 2]. Pieces of one cut overlap by one token.
    """
    # Something may begin where an interval or a document begins; what begins between two intervals is not there.
    borders = document_ends[document_ends > 0]
    starts = np.unique(np.concatenate((tokens[:, 0], borders)))
    num_begun = np.searchsorted(tokens[:, 0], starts, side="right")
    is_inside = num_begun > np.searchsorted(tokens[:, 1], starts, side="right")
    starts, owner = starts[is_inside], num_begun[is_inside] - 1
    # It ends with its interval or its document, whichever comes first.
    following = np.searchsorted(document_ends, starts, side="right")
    stops = np.minimum(tokens[owner, 1], document_ends[np.minimum(following, len(document_ends) - 1)])
    # T tokens make ceil((T - 1) / seq_length) chunks, because neighbours share one token; a single token makes one.
    num_chunks = np.maximum(1, -(-(stops - starts - 1) // seq_length))
    # Chunk c of something begins c * seq_length behind its start: repeat the starts, and number the chunks of each.
    first = np.repeat(np.cumsum(num_chunks) - num_chunks, num_chunks)  # [P], number of its first chunk
    begins = np.repeat(starts, num_chunks) + (np.arange(num_chunks.sum()) - first) * seq_length
    return np.stack((begins, np.minimum(begins + seq_length + 1, np.repeat(stops, num_chunks))), axis=1)
