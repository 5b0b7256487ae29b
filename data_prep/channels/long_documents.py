"""Splits or drops documents that are too long, and puts symbols before and behind them: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizers.encoders import EncodedDocuments

LongDocuments = Literal["split", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class DocumentShape:
    """Treatment of an encoded document before it is written."""

    end_id: int | None
    """Token appended to every document, and to every piece of a split one; None for no token."""
    begin_id: int | None = None
    """Token put before every document, and before every piece of a split one; None for no token."""
    max_tokens: int | None = None
    """Tokens of the longest document, those two included; None for any length."""
    long_documents: LongDocuments = "keep"


@dataclass(frozen=True, eq=False, kw_only=True)
class Pieces:
    """Documents as they are written: D documents that were encoded, P pieces that are written."""

    ids: NDArray[np.uint32]
    """Their tokens, back to back."""
    lengths: NDArray[np.int64]
    """Tokens of each piece, [P]."""
    per_document: NDArray[np.int64]
    """Pieces of each document, [D]: 0 if it was dropped, more than 1 if it was split."""

    def split_at(self, num_documents: int) -> tuple[Pieces, Pieces]:
        """Return the first documents, and the others."""
        num_pieces = int(self.per_document[:num_documents].sum())
        num_tokens = int(self.lengths[:num_pieces].sum())
        first = Pieces(
            ids=self.ids[:num_tokens], lengths=self.lengths[:num_pieces], per_document=self.per_document[:num_documents]
        )
        rest = Pieces(
            ids=self.ids[num_tokens:], lengths=self.lengths[num_pieces:], per_document=self.per_document[num_documents:]
        )
        return first, rest

    def num_documents_reaching(self, num_tokens: int) -> int | None:
        """Return the number of documents needed for this many tokens; None if all of them have fewer."""
        ends = np.cumsum(self.lengths)  # [P], tokens up to the end of each piece
        piece = int(np.searchsorted(ends, num_tokens, side="left"))
        if piece == len(ends):
            return None
        return int(np.searchsorted(np.cumsum(self.per_document), piece, side="right")) + 1


def lay_down(documents: EncodedDocuments, shape: DocumentShape) -> Pieces:
    """Drop or split documents that are too long, and put the symbols before and behind every piece."""
    ids, lengths = documents.ids, documents.lengths
    per_document = np.ones(len(lengths), dtype=np.int64)
    num_symbols = (shape.begin_id is not None) + (shape.end_id is not None)
    room = None if shape.max_tokens is None else shape.max_tokens - num_symbols
    if room is not None and shape.long_documents != "keep" and (lengths > room).any():
        if shape.long_documents == "drop":
            # `repeat` turns the choice of documents into a choice of their tokens.
            per_document = (lengths <= room).astype(np.int64)
            ids = ids[np.repeat(lengths <= room, lengths)]
            lengths = lengths[lengths <= room]
        else:
            per_document = np.maximum(1, -(-lengths // room))
            lengths = _lengths_of_pieces(lengths, per_document, room)
    ends = np.cumsum(lengths)
    both = ((shape.begin_id, ends - lengths), (shape.end_id, ends))
    borders = [(symbol, places) for symbol, places in both if symbol is not None]
    if borders:
        # Piece by piece: where one ends and the next begins, the end comes first.
        at = np.stack([places for _, places in borders], axis=1).ravel()
        ids = np.insert(ids, at, np.tile([symbol for symbol, _ in borders], len(lengths)))
        lengths = lengths + len(borders)
    return Pieces(ids=ids, lengths=lengths, per_document=per_document)


def _lengths_of_pieces(lengths: NDArray[np.int64], per_document: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Return the lengths of the pieces that documents are split into; every piece but a document's last is full."""
    # Fill all pieces, then shorten the last one of each document to the tokens that are left.
    pieces = np.full(int(per_document.sum()), room, dtype=np.int64)
    pieces[np.cumsum(per_document) - 1] = lengths - (per_document - 1) * room
    return pieces
