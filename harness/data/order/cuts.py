"""A channel's turn at some of its parts, cut into samples; cut anew where the rules change in the middle of it.

In an epoch every part has its turn: its documents are shuffled and laid end to end as one row of tokens, the row is cut
into samples of seq_length + 1 tokens that overlap by one (a sample's labels are its tokens moved by one), and the
samples are shuffled. A row of T tokens makes (T - 1) // seq_length samples; the rest is not used in that epoch. With
best-fit packing documents stay whole instead wherever they fit (see `harness.data.order.fitting`).

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

from harness.data.files.documents import DocumentSpan
from harness.data.order import intervals
from harness.data.order.fitting import BestFit, EndToEnd, SampleLayout
from harness.data.order.intervals import Intervals
from harness.data.order.packing import OpenPart, PackedDocuments
from harness.data.order.shuffle import ItemNumbers, permutation, shuffle_key

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


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a channel's turns are cut, always."""

    keeps_order: bool = False
    """Whether documents and samples stay in the order in which they were written."""
    is_best_fit: bool = False
    """Whether documents stay whole wherever they fit into a sample."""


class CutSamples:
    """The samples of a cut, in their order."""

    def __init__(
        self, cut: Cut, opened: OpenPart, num_documents: int, names: tuple[str | int, ...], packing: Packing
    ) -> None:
        """Lay out the documents and cut them.

        Args:
            cut: What to make.
            opened: Its part.
            num_documents: Documents of the part that are trained on.
            names: What the shuffles depend on: seed, channel, part, epoch.
            packing: How the channel is cut.
        """
        self.cut = cut
        shuffled = _as_written if packing.keeps_order else permutation
        self._row = PackedDocuments(opened, shuffled(num_documents, shuffle_key("documents", *names)))
        self._free = intervals.whole(self._row.num_tokens)
        if cut.previous is not None:
            before = CutSamples(cut.previous, opened, num_documents, names, packing)
            self._free = before.free_after(cut.num_taken)
        tokens = self._free
        if cut.quarantine:
            tokens = intervals.without(tokens, self._row.places_of([document for document, _ in cut.quarantine]))
        self._layout: SampleLayout = (
            BestFit(tokens, self._row.ends, cut.seq_length) if packing.is_best_fit else EndToEnd(tokens, cut.seq_length)
        )
        self.num_tokens = intervals.total(tokens)
        key = names if cut.previous is None else (*names, cut.number)
        self.samples: ItemNumbers = shuffled(self._layout.num_samples, shuffle_key("samples", *key))

    def spans(self, index: int) -> list[DocumentSpan]:
        """The pieces of documents that sample `index` is made of, its last label included."""
        return [span for start, stop in self._layout.stretches(index) for span in self._row.spans(start, stop - start)]

    def read(self, index: int, out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy the tokens of sample `index` into `out`, zeros behind them; return how many each document gave.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        spans = self.spans(index)
        length = sum(span.num_tokens for span in spans)
        out[length:] = 0
        return self._row.read_spans(spans, out[:length], vocab_size)

    def num_inputs(self, start: int, stop: int) -> int:
        """Tokens that samples `start … stop - 1` take as input."""
        return intervals.total(self._layout.inputs(self.samples[start:stop]))

    def tokens_of_documents(self, start: int, stop: int) -> tuple[ItemNumbers, npt.NDArray[np.int64]]:
        """Documents of the part, and how many of their tokens samples `start … stop - 1` have as input."""
        return self._row.tokens_of_documents(self._layout.inputs(self.samples[start:stop]))

    def free_after(self, num_taken: int) -> Intervals:
        """Tokens of the row that no sample has taken as input, after the first so many of this cut."""
        return intervals.without(self._free, self._layout.inputs(self.samples[:num_taken]))


def _as_written(num_items: int, _key: int) -> ItemNumbers:
    """In place of a permutation, where nothing is shuffled."""
    return np.arange(num_items, dtype=np.int64)
