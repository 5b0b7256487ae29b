"""A channel's turn at some of its parts, cut into samples; cut anew where the rules change in the middle of it.

In an epoch every part has its turn: its documents are shuffled and laid end to end as one row of tokens, the row is cut
into samples of seq_length + 1 tokens that overlap by one (a sample's labels are its tokens moved by one), and the
samples are shuffled. A row of T tokens makes (T - 1) // seq_length samples; the rest is not used in that epoch.

Where the sequence length changes, or documents of the part under way are put into quarantine or let out, the turn is
*cut anew*: what no sample has taken yet as input, without what is in quarantine, is laid end to end in the order of the
row, cut with the sequence length of now and shuffled under a key of its own. So no token is used twice, and none is
lost but the last rest.

A `Cut` only describes this; `CutSamples` opens the part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from harness.data import intervals
from harness.data.documents import DocumentSpan
from harness.data.intervals import Intervals
from harness.data.packing import OpenPart, PackedDocuments
from harness.data.shuffle import ItemNumbers, permutation, shuffle_key

Quarantine = tuple[tuple[int, int], ...]
"""Documents of a part that are in quarantine, and their tokens; rising."""


@dataclass(frozen=True)
class Cut:
    """One way in which the turn of a part was cut into samples. Equal cuts have equal samples."""

    part: int
    """Number of the part in the channel."""
    epoch: int
    seq_length: int
    quarantine: Quarantine = ()
    previous: Cut | None = None
    """The cut that this one took the place of."""
    num_taken: int = 0
    """Samples of `previous` that were taken before."""

    @property
    def number(self) -> int:
        """How often the turn was cut before."""
        return 0 if self.previous is None else self.previous.number + 1

    @property
    def salt(self) -> int:
        """Tells the samples of this cut from others of the same turn: 0 where nothing disturbed it, else n·2**40."""
        if self.previous is None and not self.quarantine:
            return 0
        return xxhash.xxh3_64_intdigest(repr(self).encode()) >> 40 << 40


class CutSamples:
    """The samples of a cut, in their order."""

    def __init__(
        self, cut: Cut, opened: OpenPart, num_documents: int, names: tuple[str | int, ...], *, keeps_order: bool = False
    ) -> None:
        """Lay out the documents and cut them.

        Args:
            cut: What to make.
            opened: Its part.
            num_documents: Documents of the part that are trained on.
            names: What the shuffles depend on: seed, channel, part, epoch.
            keeps_order: Whether documents and samples stay in the order in which they were written.
        """
        self.cut = cut
        shuffled = _as_written if keeps_order else permutation
        row = PackedDocuments(opened, shuffled(num_documents, shuffle_key("documents", *names)))
        if cut.previous is None and not cut.quarantine:
            self._free: Intervals | None = None
            self._stream: Intervals | None = None
            self.num_tokens = row.num_tokens
        else:
            self._free = intervals.whole(row.num_tokens)
            if cut.previous is not None:
                before = CutSamples(cut.previous, opened, num_documents, names, keeps_order=keeps_order)
                self._free = before.free_after(cut.num_taken)
            self._stream = intervals.without(self._free, row.places_of([document for document, _ in cut.quarantine]))
            self._ends = np.cumsum(self._stream[:, 1] - self._stream[:, 0])
            self.num_tokens = intervals.total(self._stream)
        self._row = row
        key = names if cut.previous is None else (*names, cut.number)
        in_row = num_samples(self.num_tokens, cut.seq_length)
        self.samples: ItemNumbers = shuffled(in_row, shuffle_key("samples", *key))

    def spans(self, index: int) -> list[DocumentSpan]:
        """The pieces of documents that sample `index` is made of, its last label included."""
        start, length = index * self.cut.seq_length, self.cut.seq_length + 1
        if self._stream is None:
            return self._row.spans(start, length)
        found: list[DocumentSpan] = []
        piece = int(self._ends.searchsorted(start, side="right"))
        while length:
            offset = start - (int(self._ends[piece - 1]) if piece else 0)
            first, stop = self._stream[piece].tolist()
            taken = min(length, stop - first - offset)
            found += self._row.spans(first + offset, taken)
            start, length, piece = start + taken, length - taken, piece + 1
        return found

    def read(self, index: int, out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy the tokens of sample `index` into `out`; return how many of them each document gave.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        return self._row.read_spans(self.spans(index), out, vocab_size)

    def tokens_of_documents(self, start: int, stop: int) -> tuple[ItemNumbers, npt.NDArray[np.int64]]:
        """Documents of the part, and how many of their tokens samples `start … stop - 1` have as input."""
        taken = np.sort(self.samples[start:stop]).astype(np.int64) * self.cut.seq_length
        stream = intervals.whole(self._row.num_tokens) if self._stream is None else self._stream
        return self._row.tokens_of_documents(intervals.places_in(stream, taken, taken + self.cut.seq_length))

    def free_after(self, num_taken: int) -> Intervals:
        """Tokens of the row that no sample has taken as input, after the first so many of this cut."""
        free = intervals.whole(self._row.num_tokens) if self._free is None else self._free
        stream = free if self._stream is None else self._stream
        taken = np.sort(self.samples[:num_taken]).astype(np.int64) * self.cut.seq_length
        return intervals.without(free, intervals.places_in(stream, taken, taken + self.cut.seq_length))


def num_samples(num_tokens: int, seq_length: int) -> int:
    """Samples in a row of tokens."""
    return max(0, num_tokens - 1) // seq_length


def _as_written(num_items: int, _key: int) -> ItemNumbers:
    """In place of a permutation, where nothing is shuffled."""
    return np.arange(num_items, dtype=np.int64)
