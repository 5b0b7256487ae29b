"""Cuts: a part's samples in one epoch, and the samples that take their place where the rules change on the way.

In every epoch each part of a channel has its *turn*. The documents of the part are shuffled and laid end to end as one
row of tokens. The row is cut into samples of seq_length + 1 tokens that overlap by one, because a sample's labels are
its tokens moved by one. The samples are shuffled. A row of T tokens makes (T - 1) // seq_length samples; the remaining
tokens are not used in that epoch. Best-fit packing keeps documents whole instead, wherever they fit (see
`harness.data.order.fitting`).

In the middle of a turn the sequence length may change, and documents of the part may be put into quarantine or be
released. The turn is then *cut anew*: the tokens that no sample has taken as input, without those in quarantine, stay
in the order of the row. They are cut with the new sequence length, and the samples are shuffled under a key of their
own. So no token is used twice, and no token is lost but those of the last remainder.

`Cut` describes the samples; `CutSamples` opens the part and makes them.

Shapes: D documents of the part, S samples of the cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from harness.data.files.document_table import DocumentSpan
from harness.data.order import intervals
from harness.data.order.fitting import BestFit, EndToEnd, SampleLayout
from harness.data.order.intervals import Intervals
from harness.data.order.packing import OpenPart, PackedDocuments
from harness.data.order.recipe import ChannelRules
from harness.data.order.shuffle import ItemNumbers, permutation, shuffle_key

Quarantine = tuple[tuple[int, int], ...]
"""Documents of a part that are in quarantine, each with its number of tokens; rising."""


@dataclass(frozen=True)
class Cut:
    """Description of the samples of a part's turn, or of what was left of the turn when it was cut anew.

    Equal cuts have equal samples.
    """

    part: int
    """Number of the part in the channel."""
    epoch: int
    seq_length: int
    quarantine: Quarantine = ()
    previous: Cut | None = None
    """The cut that this one replaced."""
    num_taken: int = 0
    """Samples of `previous` that were drawn before it was replaced."""

    @property
    def number(self) -> int:
        """Number of earlier cuts of the same turn."""
        return 0 if self.previous is None else self.previous.number + 1

    @property
    def salt(self) -> int:
        """Number that is added to sample indices, so that each cut of a turn has its own; 0 for an undisturbed turn.

        A multiple of 2**40, so that it never collides with an index.
        """
        if self.previous is None and not self.quarantine:
            return 0
        return xxhash.xxh3_64_intdigest(repr(self).encode()) >> 40 << 40


class CutSamples:
    """The samples of a cut, in the order in which they are drawn."""

    def __init__(
        self, cut: Cut, opened: OpenPart, num_documents: int, names: tuple[str | int, ...], rules: ChannelRules
    ) -> None:
        """Lay out the first `num_documents` of the part, which are trained on, and cut them.

        The names are seed, channel, part and epoch, which key the shuffles.
        """
        self.cut = cut
        shuffled = _as_written if rules.order == "as_written" else permutation
        # The row depends on the epoch alone, so every cut of the turn is of the same row.
        self._row = PackedDocuments(opened, shuffled(num_documents, shuffle_key("documents", *names)))
        self._free = intervals.whole(self._row.num_tokens)
        if cut.previous is not None:
            before = CutSamples(cut.previous, opened, num_documents, names, rules)
            self._free = before.free_after(cut.num_taken)
        # Tokens in quarantine stay free: a later cut uses them if they are released.
        tokens = self._free
        if cut.quarantine:
            tokens = intervals.without(tokens, self._row.places_of([document for document, _ in cut.quarantine]))
        self._layout: SampleLayout = (
            BestFit(tokens, self._row.ends, cut.seq_length)
            if rules.packing == "best_fit"
            else EndToEnd(tokens, cut.seq_length)
        )
        self.num_tokens = intervals.total(tokens)
        key = names if cut.previous is None else (*names, cut.number)
        self.samples: ItemNumbers = shuffled(self._layout.num_samples, shuffle_key("samples", *key))
        """Indices of the samples in the order in which they are drawn, [S]."""

    def spans(self, index: int) -> list[DocumentSpan]:
        """Return the pieces of documents that sample `index` is made of, its last label included."""
        return [span for start, stop in self._layout.row_ranges(index) for span in self._row.spans(start, stop - start)]

    def read(self, index: int, out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy the tokens of sample `index` into `out`, zeros behind them; return the number of each document's tokens.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        spans = self.spans(index)
        length = sum(span.num_tokens for span in spans)
        out[length:] = 0
        return self._row.read_spans(spans, out[:length], vocab_size)

    def num_inputs(self, start: int, stop: int) -> int:
        """Count the tokens that samples `start … stop - 1` take as input."""
        return intervals.total(self._layout.inputs(self.samples[start:stop]))

    def tokens_of_documents(self, start: int, stop: int) -> tuple[ItemNumbers, npt.NDArray[np.int64]]:
        """Return the documents of the part and the tokens of each that samples `start … stop - 1` take as input."""
        return self._row.tokens_of_documents(self._layout.inputs(self.samples[start:stop]))

    def free_after(self, num_taken: int) -> Intervals:
        """Return the tokens of the row that no sample has taken as input once `num_taken` of this cut are drawn."""
        return intervals.without(self._free, self._layout.inputs(self.samples[:num_taken]))


def _as_written(num_items: int, _key: int) -> ItemNumbers:
    """Return 0 … num_items - 1: the stand-in for a permutation where nothing is shuffled."""
    return np.arange(num_items, dtype=np.int64)
