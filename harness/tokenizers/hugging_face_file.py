"""A tokenizer from a `tokenizer.json`, of which the `tokenizer_config.json` beside it is read too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from harness.tokenizers.document_symbols import (
    SETTINGS_FILE,
    DocumentSymbols,
    HasDocumentSymbols,
    begins_by_settings,
    find_symbols,
    named_in,
    read_settings,
    with_begin,
)
from harness.tokenizers.native import encoded, explained
from harness.tokenizers.pieces import GAP, Piece, byte_characters, checked_size, piece_bytes, sizes_of
from harness.tokenizers.tokenizer_file import import_library, parse_described


class HuggingFaceTokenizer(HasDocumentSymbols):
    """A `tokenizer.json` of Hugging Face `tokenizers`, of which the `tokenizer_config.json` beside it is read too."""

    kind = "hugging-face"

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("tokenizers", path)
        with explained(path, "not a readable Hugging Face tokenizer.json", len(content)):
            self._description: dict[str, Any] = parse_described(content)
            tokenizer = library.Tokenizer.from_str(content.decode("utf-8-sig"))
        # A file may have been saved with other settings. A corpus is neither cut nor padded, and markers are text.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        if getattr(tokenizer.model, "dropout", None):  # of its training; a corpus is encoded alike every time
            tokenizer.model.dropout = None
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.path = path
        self.file_hash = xxhash.xxh3_64_hexdigest(content)
        self.vocab_size = checked_size(
            path, max(self._vocabulary.values(), default=-1) + 1, len(set(self._vocabulary.values()))
        )
        self.symbols = self._find_symbols(read_settings(path))

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return encoded(self.path, documents, self._encode)

    def _encode(self, documents: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(documents, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        with explained(self.path, "its library cannot decode"):
            return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return [str(token.content) for token in added if token.special]

    def bytes_per_token(self) -> list[int] | None:
        """See `Tokenizer`."""
        return None if self._spelling() is None else sizes_of(self.pieces())

    def pieces(self) -> list[Piece]:
        """See `Tokenizer`."""
        bytes_of = self._spelling() or str.encode
        added = self._tokenizer.get_added_tokens_decoder()
        unknown = self._unknown_id()
        pieces = [GAP] * self.vocab_size
        for spelling, token_id in self._vocabulary.items():
            if token_id in added:
                pieces[token_id] = Piece(spelling.encode("utf-8"), is_control=bool(added[token_id].special))
            elif token_id == unknown:
                pieces[token_id] = Piece(spelling.encode("utf-8"), is_control=True)
            else:
                pieces[token_id] = Piece(bytes_of(spelling))
        return pieces

    def rules(self) -> object:
        """See `Tokenizer`.

        Left out are the vocabulary, which is in the pieces, and everything that does not change the ids of a text here:
        decoder, post-processor, truncation and padding. The library's own way to write a file gives every setting.
        """
        described: dict[str, Any] = parse_described(self._tokenizer.to_str())
        model = described["model"]
        if isinstance(model.get("vocab"), dict):
            del model["vocab"]
        if "merges" in model:
            model["merges"] = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
        kept = ("model", "normalizer", "pre_tokenizer", "added_tokens")
        return _without_defaults({name: described.get(name) for name in kept})

    def _find_symbols(self, settings: Mapping[str, Any]) -> DocumentSymbols:
        symbols = find_symbols(self.path, self._vocabulary, settings, unknown_id=self._unknown_id())
        said = begins_by_settings(settings)
        if said is False:
            return symbols
        begin = self._begins_with()
        if begin is not None:
            return with_begin(symbols, self._vocabulary, begin, "its post-processor puts it before every text")
        reason = f"{SETTINGS_FILE} puts it before every text"
        return with_begin(symbols, self._vocabulary, named_in(settings, "bos_token"), reason) if said else symbols

    def _begins_with(self) -> str | None:
        """Return the symbol that the post-processor puts before a text; None if it puts none."""
        with_symbols, plain = (self._tokenizer.encode("a", add_special_tokens=added) for added in (True, False))
        if not with_symbols.ids or with_symbols.ids[:1] == plain.ids[:1]:
            return None
        return str(with_symbols.tokens[0])

    def _unknown_id(self) -> int | None:
        model = self._description["model"]
        named = model.get("unk_token")
        found = self._vocabulary.get(named) if isinstance(named, str) else model.get("unk_id")
        return found if isinstance(found, int) else None

    def _spelling(self) -> Callable[[str], bytes] | None:
        """Return the function from a piece to its bytes; None if the kind of vocabulary does not tell them."""
        described = self._description
        kinds = {*_types_in(described.get("pre_tokenizer")), *_types_in(described.get("decoder"))}
        if "ByteLevel" in kinds:
            return _byte_level
        if described["model"].get("byte_fallback") or "Metaspace" in kinds:
            return piece_bytes
        return None


_BYTES = {character: byte for byte, character in enumerate(byte_characters())}


def _byte_level(piece: str) -> bytes:
    """Return the bytes that stand behind the characters of a piece of a byte-level vocabulary."""
    if all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return piece.encode("utf-8")


def _without_defaults(node: object) -> object:
    """Return a description without settings that are off: a newer library writes more of them."""
    if isinstance(node, Mapping):
        said = {name: _without_defaults(value) for name, value in node.items()}
        kept = {name: value for name, value in said.items() if not _is_off(value)}
        return {} if kept == {"type": "Sequence"} else kept  # a sequence of nothing
    return [_without_defaults(value) for value in node] if isinstance(node, list) else node


def _is_off(value: object) -> bool:
    return value is None or value is False or value in ("", [], {})  # 0 is an id, not a setting that is off


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
