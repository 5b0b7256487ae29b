"""Gives documents with characters that are new in Unicode to the reference, and all others to a fast encoder.

Most tokenizers split text by what is a letter and what is a number. Each library has the tables of some version of
Unicode for that (gigatoken 0.10 those of 17, the Hugging Face library 0.23 those of 16), and they differ in what is
new.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizers.encoders import EncodedDocuments, Encoder

_NUM_CODE_POINTS = 0x110000
_PICTURES = range(0x1F000, 0x1FB00)
"""Blocks of emoji and other signs: what is new there is never a letter nor a number."""
_NEVER_ASSIGNED = (
    *range(0xFDD0, 0xFDF0),
    *(plane + end for plane in range(0, _NUM_CODE_POINTS, 0x10000) for end in (0xFFFE, 0xFFFF)),
)


class SettledEncoder:
    """A fast encoder for documents whose characters Python's Unicode knows (14 or later), the reference for others."""

    def __init__(self, encoder: Encoder, reference: Encoder) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._reference = reference

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """See `Encoder`."""
        is_new = [has_new_characters(document) for document in documents]
        if not any(is_new):
            return self._encoder.encode(documents)
        by_kind = [
            _pieces(
                encoder.encode([document for document, new in zip(documents, is_new, strict=True) if new is wanted])
            )
            for encoder, wanted in ((self._encoder, False), (self._reference, True))
        ]
        return _end_to_end([by_kind[new].pop() for new in reversed(is_new)][::-1])


def has_new_characters(document: str) -> bool:
    """Return whether a text has a character that may be a letter in one library's Unicode and not in another's."""
    if document.isascii():
        return False
    code_points = np.frombuffer(document.encode("utf-32-le", "surrogatepass"), dtype="<u4")  # [characters]
    return bool(_may_be_new()[code_points].any())


@lru_cache(maxsize=1)
def _may_be_new() -> NDArray[np.bool_]:
    """Return for each code point whether it may be new, [0x110000]."""
    table = np.fromiter((unicodedata.category(chr(code)) == "Cn" for code in range(_NUM_CODE_POINTS)), np.bool_)
    table[[*_PICTURES, *_NEVER_ASSIGNED]] = False
    return table


def _pieces(encoded: EncodedDocuments) -> list[NDArray[np.uint32]]:
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1]) if len(encoded.lengths) else []


def _end_to_end(pieces: Sequence[NDArray[np.uint32]]) -> EncodedDocuments:
    return EncodedDocuments(np.concatenate(pieces), np.array([len(piece) for piece in pieces], dtype=np.int64))
