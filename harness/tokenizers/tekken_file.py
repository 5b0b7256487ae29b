"""A tokenizer from a tekken file, Mistral's JSON with a vocabulary of bytes, a pattern and control symbols.

The ids of the control symbols come first; every other id is a rank of the vocabulary behind them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from harness.tokenizers.document_symbols import HasDocumentSymbols, find_symbols, read_settings, with_begin
from harness.tokenizers.native import encoded, explained, in_threads
from harness.tokenizers.pieces import MAX_IDS, Piece, checked_size, sizes_of
from harness.tokenizers.tokenizer_file import import_library, parse_described

_UNNAMED = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Control symbols of the files that do not name theirs, in order of their ids; as mistral-common 1.13 has them."""


class TekkenTokenizer(HasDocumentSymbols):
    """A tekken file."""

    kind = "tekken"

    def __init__(self, path: Path, content: bytes) -> None:
        library = import_library("tiktoken", path)
        self.path = path
        self.file_hash = xxhash.xxh3_64_hexdigest(content)
        with explained(path, "not a readable tekken file"):
            described: dict[str, Any] = parse_described(content)
            self._pattern = _pattern(described["config"])
            self._symbols = _symbols(described)
            self.vocab_size = checked_size(path, size := _count(described["config"], "default_vocab_size"), size)
            self._tokens = _tokens(described["vocab"], self.vocab_size - len(self._symbols))
            ranks = {token: rank for rank, token in enumerate(self._tokens)}
            self._encoding = library.Encoding(
                path.stem, pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={}
            )
        special = {name: rank for rank, name in enumerate(self._symbols)}
        symbols = find_symbols(path, special, read_settings(path))
        self.symbols = with_begin(symbols, special, "<s>", "models that have it begin every text with it")

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return encoded(self.path, documents, self._encode)

    def _encode(self, documents: list[str]) -> list[list[int]]:
        # Not the library's own batch, whose threads keep the process from ending.
        found = in_threads(self._encoding.encode_ordinary, documents, os.cpu_count() or 1)
        return [[rank + len(self._symbols) for rank in ranks] for ranks in found]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        ranks = (int(i) - len(self._symbols) for i in ids)
        return b"".join(self._tokens[rank] for rank in ranks if rank >= 0).decode("utf-8", errors="replace")

    def control_symbols(self) -> list[str]:
        """See `Tokenizer`."""
        return list(self._symbols)

    def bytes_per_token(self) -> list[int]:
        """See `Tokenizer`."""
        return sizes_of(self.pieces())

    def pieces(self) -> list[Piece]:
        """See `Tokenizer`."""
        symbols = [Piece(name.encode("utf-8"), is_control=True) for name in self._symbols]
        return [*symbols, *map(Piece, self._tokens)]

    def rules(self) -> object:
        """See `Tokenizer`. What is merged follows from the pieces."""
        return {"pattern": self._pattern}


def is_tekken(described: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is the content of a tekken file."""
    config = described.get("config")
    return isinstance(config, dict) and "pattern" in config and isinstance(described.get("vocab"), list)


def _pattern(config: Mapping[str, Any]) -> str:
    if not isinstance(config["pattern"], str):
        raise TypeError("its pattern is no text")
    return config["pattern"]


def _count(described: Mapping[str, Any], key: str) -> int:
    """Return a number of ids, or an id.

    Raises:
        ValueError: It is none.
    """
    found = described[key]
    if type(found) is not int or not 0 <= found <= MAX_IDS:
        raise ValueError(f"{key} must be a whole number from 0 to {MAX_IDS:,}")
    return found


def _symbols(described: Mapping[str, Any]) -> list[str]:
    """Return the control symbols by id; those without a name are called `<SPECIAL_7>`."""
    count = _count(described["config"], "default_num_special_tokens")
    named = described.get("special_tokens")
    names = dict(enumerate(_UNNAMED[:count]))
    if named:
        names = {_count(symbol, "rank"): str(symbol["token_str"]) for symbol in named}
    if names and max(names) >= count:
        raise ValueError(f"control symbol {max(names)} is beyond the {count} that its config promises")
    return [names.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]


def _tokens(vocabulary: Sequence[Mapping[str, Any]], count: int) -> list[bytes]:
    """Return the bytes of the first tokens by rank."""
    if count < 0:
        raise ValueError("it has more control symbols than ids")
    tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in vocabulary[:count]]
    ranks = [_count(entry, "rank") for entry in vocabulary[:count]]
    if ranks != list(range(count)):
        raise ValueError(f"the vocabulary has {len(ranks)} tokens in order, its config promises {count}")
    if b"" in tokens:
        raise ValueError(f"token {tokens.index(b'')} stands for no text")
    if len(set(tokens)) < len(tokens):
        raise ValueError("two of its tokens are equal")
    if missing := [byte for byte in range(256) if bytes([byte]) not in set(tokens[:256])]:
        raise ValueError(f"byte 0x{missing[0]:02x} has no id, so not every text can be encoded")
    return tokens
