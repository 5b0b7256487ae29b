"""The pieces of a vocabulary: the text that each id stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import DataError

SPACE_MARK = "▁"
"""U+2581, which SentencePiece and Metaspace vocabularies write for one space."""


_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
MAX_IDS = 2**24
"""Ids of the largest vocabulary that is believed; a file with a larger id is damaged, and would take all memory."""


MAX_GAPS = 2**18
"""Ids without a piece, up to the largest one. Published vocabularies pass over some thousand, for later symbols."""


class Piece(NamedTuple):
    """The meaning of one id."""

    content: bytes
    """The UTF-8 bytes that it stands for; the spelling of a control symbol; empty for an id without a piece."""
    is_control: bool = False
    """True if no text becomes this id: control symbols, the unknown symbol, unused ids, gaps."""


GAP = Piece(b"", is_control=True)
"""An id that the vocabulary passes over."""


def piece_bytes(spelling: str) -> bytes:
    """Return the bytes of a piece as SentencePiece spells it: ▁ is a space, `<0x41>` is one byte."""
    if byte := _BYTE.fullmatch(spelling):
        return bytes([int(byte[1], 16)])
    return spelling.replace(SPACE_MARK, " ").encode("utf-8")


def byte_characters() -> list[str]:
    """Return the printable character that GPT-2 gave to each byte: itself if it is one, else the next from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def checked_size(path: Path, vocab_size: int, num_pieces: int) -> int:
    """Return the number of ids of a tokenizer's file, given how many of them have a piece.

    Raises:
        DataError: There are none, more than any vocabulary has, or far more than pieces.
    """
    if not 0 < vocab_size <= MAX_IDS:
        raise DataError(
            f"tokenizer {path}: it has {vocab_size:,} ids; allowed are 1 to {MAX_IDS:,}. The file is damaged: fetch it "
            "again."
        )
    if vocab_size - num_pieces > MAX_GAPS:
        raise DataError(
            f"tokenizer {path}: its largest id is {vocab_size - 1:,}, but it has only {num_pieces:,} pieces. The file "
            "is damaged: fetch it again."
        )
    return vocab_size


def sizes_of(pieces: Sequence[Piece]) -> list[int]:
    """Return the number of bytes that each id adds to a text."""
    return [0 if piece.is_control else len(piece.content) for piece in pieces]
