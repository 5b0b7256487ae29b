"""Tokenizers: text to token ids and back, by the library of each kind of file.

The libraries are imported only when a file of their kind is opened. Text is taken as plain text: markers such as
`<|endoftext|>` inside a document are spelt out in ordinary tokens and never become the control symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.tokenizers.document_symbols import DocumentSymbols
from harness.tokenizers.hugging_face_file import HuggingFaceTokenizer
from harness.tokenizers.pieces import Piece
from harness.tokenizers.recognise import Kind, find_file, kind_of
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tekken_file import TekkenTokenizer
from harness.tokenizers.tiktoken_file import TiktokenTokenizer, description_file
from harness.tokenizers.tokenizer_file import read_file
from harness.tokenizers.trial import try_out


class Tokenizer(Protocol):
    """A tokenizer as the harness uses it."""

    kind: str
    """Kind of its file, of `recognise.Kind`."""
    path: Path
    file_hash: str
    """xxh3 (64 bits, hexadecimal) of that file. What the tokenizer does is told by `harness.tokenizers.identity`."""
    vocab_size: int
    """Largest token id + 1, control symbols included."""
    symbols: DocumentSymbols
    """The symbols around documents."""
    tried: Mapping[str, Any] | None
    """The record of its identity from the trial of its file; None if there was no trial."""

    @property
    def end_of_document_id(self) -> int:
        """Id of the symbol that is appended to every document, unless a command names another.

        Raises:
            DataError: None is known.
        """

    def __hash__(self) -> int: ...  # so that what is known of it can be kept

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """Return the token ids of every document, without control symbols. Uses all cores."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; control symbols are left out."""

    def control_symbols(self) -> list[str]:
        """Return the spelling of the control symbols. Where it occurs in a document, it is ordinary text."""

    def pieces(self) -> list[Piece]:
        """Return what each id stands for, [vocab_size]."""

    def rules(self) -> object:
        """Return everything beside the pieces that decides about the ids of a text, as plain JSON values."""

    def bytes_per_token(self) -> list[int] | None:
        """Return the number of UTF-8 bytes of each id, [vocab_size]; 0 for control symbols; None if it is not known.

        Summed over the ids of a text it gives the text's bytes, which turns a loss in nats per token into bits per
        byte. It is exact unless the tokenizer changes the text first (SentencePiece's dummy prefix adds one byte a
        document, a normalizer may change more). It is not known of a vocabulary that is neither byte-level nor written
        with ▁ for a space.
        """


_READERS: Mapping[Kind, Callable[[Path, bytes], Tokenizer]] = {
    "sentencepiece": SentencePieceTokenizer,
    "hugging-face": HuggingFaceTokenizer,
    "tiktoken": TiktokenTokenizer,
    "tekken": TekkenTokenizer,
}


def open_tokenizer(path: Path, *, needs_end: bool = True) -> Tokenizer:
    """Open a tokenizer's file, whatever its name is, or that of a folder.

    Without `needs_end` it may be one of which nobody says how a document ends.

    The file is tried out in a child process first (`harness.tokenizers.trial`).

    Raises:
        DataError: The file is missing, broken, of no known kind, needs more time or memory than any tokenizer, or it is
            not known which symbol ends a document.
        UsageError: The library that reads this kind of file is not installed.
    """
    file = find_file(path)
    content, beside = read_file(file), description_file(file)
    tried = try_out(file, content, read_file(beside) if beside.is_file() else b"")
    tokenizer = read_tokenizer(file, content)
    tokenizer.tried = tried
    if needs_end:
        tokenizer.symbols.require_end()
    return tokenizer


def read_tokenizer(file: Path, content: bytes) -> Tokenizer:
    """Return the tokenizer of a file, without a trial.

    Raises:
        DataError: The file is broken, of no known kind, or has too many ids.
        UsageError: The library that reads this kind of file is not installed.
    """
    return _READERS[kind_of(file, content)](file, content)
