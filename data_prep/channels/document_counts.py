"""Counts, document by document, what became of a text on its way into a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizers.encoders import EncodedDocuments
from data_prep.tokenizers.round_trip import lost_characters
from harness.tokenizers.tokenizer import Tokenizer

FIRST_DECODED = 200
"""Documents at the beginning that are all decoded, to see whether they come back; later ones now and then."""
DOCUMENTS_FOR_EACH_DECODED = 256
MAX_DECODED_CHARACTERS = 50_000
"""A longer document is not decoded."""


@dataclass(frozen=True, kw_only=True)
class DocumentCounts:
    """Sums over documents; see `harness.channels.source.Totals`."""

    split: int = 0
    dropped: int = 0
    unknown_tokens: int = 0
    symbols_inside: int = 0
    decoded_characters: int = 0
    lost_characters: int = 0

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
        self._has_no_text = np.array([piece.is_control for piece in tokenizer.pieces()])
        self._is_symbol = np.zeros(len(self._has_no_text), dtype=bool)
        self._is_symbol[list(symbols)] = True
        self._has_no_text[list(symbols)] = False

    def look_at(self, texts: Sequence[str], encoded: EncodedDocuments, first_number: int) -> TextCounts:
        """Count; `first_number` is the number of the first document in the whole input, from 0."""
        borders = np.concatenate([[0], np.cumsum(encoded.lengths)])
        decoded = np.zeros(len(texts), dtype=np.int64)
        lost = np.zeros(len(texts), dtype=np.int64)
        for place, text in enumerate(texts):
            number = first_number + place
            is_wanted = number < FIRST_DECODED or number % DOCUMENTS_FOR_EACH_DECODED == 0
            if is_wanted and len(text) <= MAX_DECODED_CHARACTERS:
                ids = encoded.ids[borders[place] : borders[place + 1]]
                decoded[place] = len(text)
                lost[place] = lost_characters(text, self._tokenizer.decode(ids.tolist())).total()
        return TextCounts(
            unknown_tokens=_sums(self._has_no_text[encoded.ids], borders),
            symbols_inside=_sums(self._is_symbol[encoded.ids], borders),
            decoded_characters=decoded,
            lost_characters=lost,
        )


def _sums(is_counted: NDArray[np.bool_], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many are counted between each border and the next."""
    running = np.concatenate([[0], np.cumsum(is_counted, dtype=np.int64)])
    counted: NDArray[np.int64] = running[borders[1:]] - running[borders[:-1]]
    return counted
