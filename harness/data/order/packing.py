"""Documents of a part laid end to end in a given order, as one row of tokens to read from.

Shapes: D documents that are laid out, I intervals of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.channels.parts import Part
from harness.data.files.document_table import DocumentSpan
from harness.data.order.intervals import Intervals, merged
from harness.data.order.shuffle import ItemNumbers
from harness.errors import DataError


class OpenPart(Protocol):
    """A part whose index is read, by Megatron (`harness.data.files.mcore`) or not (`harness.data.files.opened`)."""

    @property
    def part(self) -> Part:
        """The part itself."""

    def lengths_of(self, documents: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Return the tokens of each of these documents, [len(documents)]; documents are numbered within the part."""

    def read(self, spans: Sequence[DocumentSpan], out: npt.NDArray[np.int64]) -> None:
        """Copy the tokens of pieces of documents into `out`, end to end."""


class PartOpener(Protocol):
    """A function that opens a part and checks it against the vocabulary."""

    def __call__(self, part: Part, vocab_size: int) -> OpenPart:
        """Open the part.

        Raises:
            DataError: The files are damaged, or too narrow for the vocabulary.
        """


class PackedDocuments:
    """Documents of one part laid end to end, as one long row of tokens."""

    def __init__(self, part: OpenPart, documents: ItemNumbers) -> None:
        """Lay the documents end to end, given by their numbers in the part, [D]."""
        self._part = part
        self._documents = documents  # [D]
        self.ends = np.cumsum(part.lengths_of(documents), dtype=np.int64)
        """Place in the row behind each document, [D]."""

    @property
    def part(self) -> Part:
        """The part that the documents are of."""
        return self._part.part

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def spans(self, start: int, num_tokens: int) -> list[DocumentSpan]:
        """Return the pieces of documents that form tokens `start … start + num_tokens - 1` of the row, in order."""
        stop = start + num_tokens
        # The document that holds the first token, and the one that holds the last.
        first = int(self.ends.searchsorted(start, side="right"))
        last = int(self.ends.searchsorted(stop, side="left"))
        documents = self._documents[first : last + 1].tolist()
        ends = self.ends[first : last + 1].tolist()
        offset = start - int(self.ends[first - 1]) if first else start
        spans = []
        for document, end in zip(documents, ends, strict=True):
            length = min(end, stop) - start
            if length:
                spans.append(DocumentSpan(document, offset, length))
            start, offset = start + length, 0
        return spans

    def places_of(self, documents: Sequence[int]) -> Intervals:
        """Return the tokens of the row that belong to these documents, [I, 2].

        Args:
            documents: Their numbers in the part. Those that are not laid out have no tokens in the row.
        """
        places = np.flatnonzero(np.isin(self._documents, np.asarray(documents, dtype=np.int64)))
        stops = self.ends[places]  # one for each document that was found
        return merged(stops - self._part.lengths_of(self._documents[places]), stops)

    def tokens_of_documents(self, places: Intervals) -> tuple[ItemNumbers, npt.NDArray[np.int64]]:
        """Return the documents [D], and the number of tokens of each that lie at these places [I, 2] of the row."""
        if len(places) == 0:
            return self._documents, np.zeros(len(self._documents), dtype=np.int64)
        before = np.concatenate(([0], np.cumsum(places[:, 1] - places[:, 0])))  # [I + 1], tokens before each interval
        borders = np.concatenate(([0], self.ends))  # [D + 1]
        # Count the chosen tokens before each border of a document: those of all intervals before the last one that has
        # begun there, and the part of that one which lies before the border.
        last = np.searchsorted(places[:, 0], borders, side="right") - 1  # [D + 1]; -1 where none has begun
        partial = np.where(last >= 0, np.minimum(borders, places[last, 1]) - places[last, 0], 0)
        chosen_before = np.where(last >= 0, before[last] + partial, 0)
        # A document's tokens are the difference between its two borders.
        return self._documents, np.diff(chosen_before)

    def read(self, start: int, out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy tokens from `start` on into `out` until it is full; return the number of tokens of each document.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        assert start + len(out) <= self.num_tokens, f"tokens beyond the {self.num_tokens} laid out were asked for"
        return self.read_spans(self.spans(start, len(out)), out, vocab_size)

    def read_spans(self, spans: list[DocumentSpan], out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy the tokens of pieces of documents into `out`; return the number of tokens of each piece.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        self._part.read(spans, out)
        if out.view(np.uint64).max(initial=0) >= vocab_size:  # negative ids are huge as unsigned numbers
            raise self._foreign_token(spans, out, vocab_size)
        return [span.num_tokens for span in spans]

    def _foreign_token(self, spans: list[DocumentSpan], tokens: npt.NDArray[np.int64], vocab_size: int) -> DataError:
        foreign = int(np.argmax((tokens < 0) | (tokens >= vocab_size)))
        begin = 0
        for span in spans:
            if foreign < begin + span.num_tokens:
                return DataError(
                    f"token {span.first_token + foreign - begin} of document {span.document} in "
                    f"{self._part.part.bin_path} has id {int(tokens[foreign])}; the vocabulary has ids "
                    f"0 … {vocab_size - 1} (`model.vocab_size`). The data was made with another tokenizer, or is "
                    "damaged: tokenize it again."
                )
            begin += span.num_tokens
        raise AssertionError("the documents of a sample are shorter than the sample")
