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

from harness.errors import DataError
from harness.json_text import parse_json
from harness.tokenizers.document_symbols import HasDocumentSymbols, find_symbols, read_settings, with_begin
from harness.tokenizers.pieces import Piece, sizes_of
from harness.tokenizers.tokenizer_file import import_library

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
        library = import_library("tiktoken", path, extra="data-fast")
        self.path = path
        self.file_hash = xxhash.xxh3_64_hexdigest(content)
        try:
            described: dict[str, Any] = parse_json(content)
            self._pattern = str(described["config"]["pattern"])
            self._symbols = _symbols(described)
            self.vocab_size = int(described["config"]["default_vocab_size"])
            self._tokens = _tokens(described["vocab"], self.vocab_size - len(self._symbols))
            ranks = {token: rank for rank, token in enumerate(self._tokens)}
            self._encoding = library.Encoding(
                path.stem, pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except Exception as error:  # noqa: BLE001 - the library panics on a wrong pattern
            raise DataError(
                f"tokenizer {path}: not a readable tekken file ({type(error).__name__}: {error}). Fetch it again."
            ) from error
        special = {name: rank for rank, name in enumerate(self._symbols)}
        symbols = find_symbols(path, special, read_settings(path))
        self.symbols = with_begin(symbols, special, "<s>", "models that have it begin every text with it")

    def encode_documents(self, documents: list[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        encoded = self._encoding.encode_ordinary_batch(documents, num_threads=os.cpu_count() or 1)
        return [[rank + len(self._symbols) for rank in ranks] for ranks in encoded]

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


def _symbols(described: Mapping[str, Any]) -> list[str]:
    """Return the control symbols by id; those without a name are called `<SPECIAL_7>`."""
    count = int(described["config"]["default_num_special_tokens"])
    named = described.get("special_tokens")
    names = dict(enumerate(_UNNAMED[:count]))
    if named:
        names = {int(symbol["rank"]): str(symbol["token_str"]) for symbol in named}
    if names and max(names) >= count:
        raise ValueError(f"control symbol {max(names)} is beyond the {count} that its config promises")
    return [names.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]


def _tokens(vocabulary: Sequence[Mapping[str, Any]], count: int) -> list[bytes]:
    """Return the bytes of the first tokens by rank."""
    tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in vocabulary[:count]]
    ranks = [int(entry["rank"]) for entry in vocabulary[:count]]
    if ranks != list(range(count)):
        raise ValueError(f"the vocabulary has {len(ranks)} tokens in order, its config promises {count}")
    if len(set(tokens)) < len(tokens):
        raise ValueError("two of its tokens are equal")
    if missing := [byte for byte in range(256) if bytes([byte]) not in set(tokens[:256])]:
        raise ValueError(f"byte 0x{missing[0]:02x} has no id, so not every text can be encoded")
    return tokens
