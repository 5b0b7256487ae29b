"""Counts, document by document, what became of a text on its way into a channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizers.encoders import EncodedDocuments, Encoder, ReferenceEncoder
from data_prep.tokenizers.round_trip import count_lost, lost_characters
from harness.tokenizers.tokenizer import Tokenizer

FIRST_DECODED = 200
"""Documents at the beginning that are all decoded, to see whether they come back; of later ones a sample."""
DOCUMENTS_FOR_EACH_DECODED = 64
MAX_DECODED_CHARACTERS = 50_000
"""Characters of a document that is decoded whole. Of a longer one stretches are looked at, all over it."""
STRETCH_CHARACTERS = 1000
STRETCHES_OF_FIRST = MAX_DECODED_CHARACTERS // STRETCH_CHARACTERS
"""Stretches of a long document among the first ones, at least."""


@dataclass(frozen=True, kw_only=True)
class DocumentCounts:
    """Sums over documents; see `harness.channels.source.Totals`."""

    split: int = 0
    dropped: int = 0
    unknown_tokens: int = 0
    symbols_inside: int = 0
    decoded_characters: int = 0
    lost_characters: int = 0
    lost_white_space: int = 0

    def plus(self, other: DocumentCounts) -> DocumentCounts:
        """Return the sums of both."""
        names = [field.name for field in fields(DocumentCounts)]
        return DocumentCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, eq=False, kw_only=True)
class TextCounts:
    """Counts of each of D documents, [D]."""

    unknown_tokens: NDArray[np.int64]
    symbols_inside: NDArray[np.int64]
    decoded_characters: NDArray[np.int64]
    lost_characters: NDArray[np.int64]
    lost_white_space: NDArray[np.int64]

    def sums(self, begin: int, end: int) -> DocumentCounts:
        """Return the sums over some of the documents."""
        return DocumentCounts(
            **{field.name: int(getattr(self, field.name)[begin:end].sum()) for field in fields(TextCounts)}
        )


class TextCheck:
    """Looks at encoded documents: which ids stand for no text, which are symbols of borders, what does not come back.

    It depends on a document and its number only, so that an interrupted call counts the same.
    """

    def __init__(self, tokenizer: Tokenizer, symbols: Sequence[int]) -> None:
        """Take the ids that are put before or behind documents as `symbols`."""
        self._tokenizer = tokenizer
        self._reference = ReferenceEncoder(tokenizer)
        self._has_no_text = np.array([piece.is_control for piece in tokenizer.pieces()])
        self._is_symbol = np.zeros(len(self._has_no_text), dtype=bool)
        self._is_symbol[list(symbols)] = True
        self._has_no_text[list(symbols)] = False

    def look_at(
        self, texts: Sequence[str], encoded: EncodedDocuments, first_number: int, encoder: Encoder | None = None
    ) -> TextCounts:
        """Count; `first_number` is the number of the first document in the whole input, from 0.

        The encoder encodes stretches of long documents; without one the tokenizer's own library does.
        """
        borders = np.concatenate([[0], np.cumsum(encoded.lengths)])
        decoded = np.zeros(len(texts), dtype=np.int64)
        lost = np.zeros((2, len(texts)), dtype=np.int64)
        for place, text, ids in self._sample(texts, encoded, first_number, encoder or self._reference):
            decoded[place] += len(text)
            lost[:, place] += count_lost(lost_characters(text, self._tokenizer.decode(ids.tolist())))
        return TextCounts(
            unknown_tokens=_sums(self._has_no_text[encoded.ids], borders),
            symbols_inside=_sums(self._is_symbol[encoded.ids], borders),
            decoded_characters=decoded,
            lost_characters=lost[0],
            lost_white_space=lost[1],
        )

    def _sample(
        self, texts: Sequence[str], encoded: EncodedDocuments, first_number: int, encoder: Encoder
    ) -> Iterator[tuple[int, str, NDArray[np.uint32]]]:
        """Yield the texts to decode, each with its ids and the place of its document among `texts`."""
        ends = np.cumsum(encoded.lengths)
        pieces: list[tuple[int, str]] = []
        for place, text in enumerate(texts):
            number = first_number + place
            if len(text) > MAX_DECODED_CHARACTERS:
                pieces += [(place, piece) for piece in stretches(text, is_first=number < FIRST_DECODED)]
            elif is_decoded(number):
                yield place, text, encoded.ids[ends[place] - encoded.lengths[place] : ends[place]]
        if pieces:
            found = encoder.encode([text for _, text in pieces])  # all at once: a call has its price
            for (place, text), ids in zip(pieces, np.split(found.ids, np.cumsum(found.lengths)[:-1]), strict=True):
                yield place, text, ids


def is_decoded(number: int) -> bool:
    """Return whether a document of this number is decoded whole, if it is not too long for that."""
    # Scattered, because every so many lines of a file may be alike, as where two files were interleaved.
    return number < FIRST_DECODED or (number * 2_654_435_761 >> 7) % 2**25 < 2**25 // DOCUMENTS_FOR_EACH_DECODED


def stretches(text: str, *, is_first: bool) -> list[str]:
    """Return pieces of a long document, evenly spread: 2 % of it; more of one that `is_first` in its input."""
    count = -(-len(text) // MAX_DECODED_CHARACTERS)
    count = max(count, STRETCHES_OF_FIRST) if is_first else count
    room = len(text) - STRETCH_CHARACTERS
    places = [room * place // (count - 1) for place in range(count)]
    return [text[place : place + STRETCH_CHARACTERS] for place in places]


def _sums(is_counted: NDArray[np.bool_], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many are counted between each border and the next."""
    running = np.concatenate([[0], np.cumsum(is_counted, dtype=np.int64)])
    counted: NDArray[np.int64] = running[borders[1:]] - running[borders[:-1]]
    return counted
