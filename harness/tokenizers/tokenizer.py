"""Tokenizers: text to token ids and back, by a SentencePiece model, a `tokenizer.json` or a tiktoken file.

The libraries are imported only when a file of their kind is opened. Text is taken as plain text: markers such as
`<|endoftext|>` inside a document are spelt out in ordinary tokens and never become the control symbol.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from harness.errors import DataError
from harness.tokenizers.tiktoken_file import TiktokenTokenizer, is_tiktoken
from harness.tokenizers.tokenizer_file import end_of_document_id, import_library

SPACE_MARK = "▁"
"""U+2581, which SentencePiece and Metaspace vocabularies write for one space."""


class Tokenizer(Protocol):
    """A tokenizer as the harness uses it."""

    path: Path
    hash: str
    """xxh3 (64 bits, hexadecimal) of that file: two tokenizers with equal hashes give equal ids."""
    vocab_size: int
    """Largest token id + 1, control symbols included."""
    end_of_document_id: int
    """Id of the control symbol that is appended to every document."""

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """Return the token ids of every document, without control symbols. Uses all cores."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; control symbols are left out."""

    def control_symbols(self) -> list[str]:
        """Return the spelling of the control symbols. Where it occurs in a document, it is ordinary text."""

    def bytes_per_token(self) -> NDArray[np.int64]:
        """Return the number of UTF-8 bytes of each id, [vocab_size]; 0 for control symbols.

        Summed over the ids of a text it gives the text's bytes, which turns a loss in nats per token into bits per
        byte. It is exact unless the tokenizer changes the text first (SentencePiece's dummy prefix adds one byte a
        document, a normalizer may change more).
        """


def open_tokenizer(path: Path) -> Tokenizer:
    """Open a SentencePiece `.model`, a `tokenizer.json`, a `.tiktoken`, or a folder that holds one of them.

    Raises:
        DataError: The file is missing, broken, or has no symbol that ends a document.
        UsageError: The library that reads this kind of file is not installed.
    """
    file = _find_file(path)
    content = file.read_bytes()
    if file.suffix == ".json":
        return HuggingFaceTokenizer(file, content)
    if is_tiktoken(file, content):
        return TiktokenTokenizer(file, content)
    return SentencePieceTokenizer(file, content)


def _find_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".model", ".json", ".tiktoken"):
            raise DataError(
                f"tokenizer {path}: the name ends in {path.suffix or 'nothing'!r}. Allowed are a SentencePiece model "
                "(*.model), a Hugging Face tokenizer.json, a *.tiktoken, or a folder that holds one of them."
            )
        return path
    if not path.is_dir():
        raise DataError(f"tokenizer {path}: there is no such file or folder. Check the path.")
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    models = sorted([*path.glob("*.model"), *path.glob("*.tiktoken")])
    if len(models) != 1:
        found = ", ".join(model.name for model in models) or "none"
        raise DataError(
            f"tokenizer {path}: the folder has no tokenizer.json, and needs exactly one *.model or *.tiktoken "
            f"(found: {found}). Name the file itself."
        )
    return models[0]


class SentencePieceTokenizer:
    """A SentencePiece model (BPE or unigram)."""

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("sentencepiece", path)
        try:
            if not content:  # the library takes nothing for "no model yet"
                raise OSError("the file is empty")
            self._processor = library.SentencePieceProcessor(model_proto=content)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"tokenizer {path}: not a readable SentencePiece model ({len(content)} bytes: {error}). "
                "The file may be truncated, or a Git LFS pointer: fetch it again."
            ) from error
        self.path = path
        self.hash = xxhash.xxh3_64_hexdigest(content)
        self.vocab_size = int(self._processor.get_piece_size())
        self.end_of_document_id = self._find_end_of_document()

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        ids: list[list[int]] = self._processor.encode(documents, num_threads=-1)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return str(self._processor.decode([int(i) for i in ids]))

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        processor = self._processor
        return [str(processor.id_to_piece(i)) for i in range(self.vocab_size) if processor.is_control(i)]

    def bytes_per_token(self) -> NDArray[np.int64]:
        """See `Tokenizer`."""
        return np.array([self._bytes_of(i) for i in range(self.vocab_size)], dtype=np.int64)

    def _bytes_of(self, token_id: int) -> int:
        processor = self._processor
        if processor.is_byte(token_id):
            return 1
        if processor.is_control(token_id) or processor.is_unknown(token_id) or processor.is_unused(token_id):
            return 0
        return _bytes_of_piece(processor.id_to_piece(token_id))

    def _find_end_of_document(self) -> int:
        processor = self._processor
        if processor.eos_id() >= 0:
            return int(processor.eos_id())
        return end_of_document_id(
            self.path, {name: int(processor.piece_to_id(name)) for name in self.control_symbols()}
        )


class HuggingFaceTokenizer:
    """A `tokenizer.json` of Hugging Face `tokenizers`, of which the `tokenizer_config.json` beside it is read too."""

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("tokenizers", path)
        try:
            text = content.decode("utf-8")
            self._description: dict[str, Any] = json.loads(text)
            tokenizer = library.Tokenizer.from_str(text)
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception for a broken file
            raise DataError(
                f"tokenizer {path}: not a readable Hugging Face tokenizer.json ({len(content)} bytes: {error}). "
                "The file may be truncated, or a Git LFS pointer: fetch it again."
            ) from error
        # A file may have been saved with other settings. A corpus is neither cut nor padded, and markers are text.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.path = path
        self.hash = xxhash.xxh3_64_hexdigest(content)
        self.vocab_size = max(self._vocabulary.values()) + 1
        own = _configured_end(path.with_name("tokenizer_config.json"))
        self.end_of_document_id = end_of_document_id(path, self._vocabulary, own)

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(documents, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [str(token.content) for token in added if token.special]

    def bytes_per_token(self) -> NDArray[np.int64]:
        """See `Tokenizer`.

        Raises:
            DataError: The vocabulary is neither byte-level nor written with ▁ for a space.
        """
        kinds = set(_types_in(self._description.get("pre_tokenizer"))) | set(
            _types_in(self._description.get("decoder"))
        )
        if "ByteLevel" in kinds:
            # In a byte-level vocabulary every character of a piece is the stand-in of one byte.
            bytes_of_piece: Callable[[str], int] = len
        elif self._description["model"].get("byte_fallback") or "Metaspace" in kinds:
            bytes_of_piece = _bytes_of_piece
        else:
            raise DataError(
                f"tokenizer {self.path}: cannot tell how many bytes its tokens stand for (pre-tokenizer and decoder: "
                f"{', '.join(sorted(kinds)) or 'none'}). Bits per byte need a byte-level or SentencePiece-like one."
            )
        added = self._tokenizer.get_added_tokens_decoder()
        sizes = np.zeros(self.vocab_size, dtype=np.int64)
        for piece, token_id in self._vocabulary.items():
            if token_id in added:
                sizes[token_id] = 0 if added[token_id].special else len(piece.encode("utf-8"))
            else:
                sizes[token_id] = bytes_of_piece(piece)
        return sizes


def _bytes_of_piece(piece: str) -> int:
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return 1 if is_byte else len(piece.replace(SPACE_MARK, " ").encode("utf-8"))


def _types_in(node: object) -> Iterator[str]:
    """Yield every `type` in a (nested) component of a tokenizer.json."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node["type"]
        for child in node.values():
            yield from _types_in(child)
    elif isinstance(node, list):
        for child in node:
            yield from _types_in(child)


def _configured_end(config_file: Path) -> list[str]:
    """Return the `eos_token` of a tokenizer_config.json (text, or an object with `content`); empty without one."""
    if not config_file.is_file():
        return []
    try:
        token = json.loads(config_file.read_text(encoding="utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"tokenizer {config_file}: not readable as JSON ({error}). Fetch it again or remove it."
        ) from error
    name = token.get("content") if isinstance(token, dict) else token
    return [name] if isinstance(name, str) else []
