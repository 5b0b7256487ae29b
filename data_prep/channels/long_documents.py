"""Cuts, splits or drops documents that are too long, and appends the end-of-document token: arrays in, arrays out."""

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
    max_tokens: int | None = None
    """Tokens of the longest document, the appended one included; None for any length."""
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
    """Drop or split documents that are too long, and append the end-of-document token to every piece."""
    ids, lengths = documents.ids, documents.lengths
    per_document = np.ones(len(lengths), dtype=np.int64)
    num_end_tokens = 0 if shape.end_id is None else 1
    room = None if shape.max_tokens is None else shape.max_tokens - num_end_tokens
    if room is not None and shape.long_documents != "keep" and (lengths > room).any():
        if shape.long_documents == "drop":
            # `repeat` turns the choice of documents into a choice of their tokens.
            per_document = (lengths <= room).astype(np.int64)
            ids = ids[np.repeat(lengths <= room, lengths)]
            lengths = lengths[lengths <= room]
        else:
            per_document = np.maximum(1, -(-lengths // room))
            lengths = _lengths_of_pieces(lengths, per_document, room)
    if shape.end_id is not None:
        ids = np.insert(ids, np.cumsum(lengths), shape.end_id)
        lengths = lengths + 1
    return Pieces(ids=ids, lengths=lengths, per_document=per_document)


def _lengths_of_pieces(lengths: NDArray[np.int64], per_document: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Return the lengths of the pieces that documents are split into; every piece but a document's last is full."""
    # Fill all pieces, then shorten the last one of each document to the tokens that are left.
    pieces = np.full(int(per_document.sum()), room, dtype=np.int64)
    pieces[np.cumsum(per_document) - 1] = lengths - (per_document - 1) * room
    return pieces
