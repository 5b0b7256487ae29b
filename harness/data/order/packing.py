"""Documents laid end to end in a given order, and the stretches of tokens cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from harness.data.files.documents import DocumentSpan
from harness.data.files.parts import Part
from harness.data.order.intervals import Intervals, merged
from harness.data.order.shuffle import ItemNumbers
from harness.errors import DataError


class OpenPart(Protocol):
    """A part whose index has been read (see `harness.data.files.mcore`)."""

    part: Part

    def lengths_of(self, documents: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Tokens of the documents with these numbers, [len(documents)]."""
        ...

    def read(self, spans: Sequence[DocumentSpan], out: npt.NDArray[np.int64]) -> None:
        """Copy the tokens of pieces of documents into `out`, end to end."""
        ...


class PartOpener(Protocol):
    """Opens a part and checks it, for a vocabulary of so many ids."""

    def __call__(self, part: Part, vocab_size: int) -> OpenPart:
        """Raises `DataError` where the files are damaged or do not fit."""
        ...


class PackedDocuments:
    """Documents of one part end to end, as one long row of tokens."""

    def __init__(self, part: OpenPart, documents: ItemNumbers) -> None:
        """Lay the documents, given by their numbers in the part, end to end."""
        self._part = part
        self._documents = documents
        self._ends = np.cumsum(part.lengths_of(documents), dtype=np.int64)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each document ends in the row."""
        return self._ends

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def spans(self, start: int, num_tokens: int) -> list[DocumentSpan]:
        """The documents under tokens `start … start + num_tokens - 1` of the row, in order."""
        stop = start + num_tokens
        first = int(self._ends.searchsorted(start, side="right"))
        last = int(self._ends.searchsorted(stop, side="left"))
        documents = self._documents[first : last + 1].tolist()
        ends = self._ends[first : last + 1].tolist()
        offset = start - int(self._ends[first - 1]) if first else start
        spans = []
        for document, end in zip(documents, ends, strict=True):
            length = min(end, stop) - start
            if length:
                spans.append(DocumentSpan(document, offset, length))
            start, offset = start + length, 0
        return spans

    def places_of(self, documents: Sequence[int]) -> Intervals:
        """Where these documents lie in the row, given by their numbers in the part; others than those laid out do not.

        Returns:
            Their intervals, rising; touching ones are one.
        """
        places = np.flatnonzero(np.isin(self._documents, np.asarray(documents, dtype=np.int64)))
        stops = self._ends[places]
        return merged(stops - self._part.lengths_of(self._documents[places]), stops)

    def tokens_of_documents(self, places: Intervals) -> tuple[ItemNumbers, npt.NDArray[np.int64]]:
        """The documents, and how many tokens of each lie at these places of the row."""
        if len(places) == 0:
            return self._documents, np.zeros(len(self._documents), dtype=np.int64)
        before = np.concatenate(([0], np.cumsum(places[:, 1] - places[:, 0])))
        borders = np.concatenate(([0], self._ends))
        inside = np.searchsorted(places[:, 0], borders, side="right") - 1  # the last interval that begins before it
        partial = np.where(inside >= 0, np.minimum(borders, places[inside, 1]) - places[inside, 0], 0)
        return self._documents, np.diff(np.where(inside >= 0, before[inside] + partial, 0))

    def read(self, start: int, out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """Copy tokens from `start` on into `out` until it is full; return how many of them each document gave.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        assert start + len(out) <= self.num_tokens, f"tokens beyond the {self.num_tokens} laid out were asked for"
        return self.read_spans(self.spans(start, len(out)), out, vocab_size)

    def read_spans(self, spans: list[DocumentSpan], out: npt.NDArray[np.int64], vocab_size: int) -> list[int]:
        """`read` for pieces of documents that lie anywhere in the row."""
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
