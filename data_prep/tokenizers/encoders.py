"""Encodes many documents at once into one flat array of ids: by the reference library, or by a faster one.

Text is always plain text: what looks like a control symbol is spelt out, as `harness.tokenizers.tokenizer`
does. The fast libraries are trusted only after `data_prep.tokenizers.choose_encoder` has compared them with the
reference.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.tokenizers.hugging_face_file import HuggingFaceTokenizer
from harness.tokenizers.native import encoded
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tiktoken_file import TiktokenTokenizer
from harness.tokenizers.tokenizer import Tokenizer
from harness.tokenizers.tokenizer_file import parse_described, read_file

MAX_GROWTH_BYTES = 1 << 27
CHARACTERS_BEFORE_A_LOOK = 20_000_000
GIGATOKEN_SPLITS = {"gpt2": "gpt2", "cl100k": "cl100k", "o200k": "o200k", "qwen2": "qwen2"}
"""gigatoken's names for the published ways to split text."""


@dataclass(frozen=True, eq=False)
class EncodedDocuments:
    """Token ids of several documents, back to back, without end-of-document tokens."""

    ids: NDArray[np.uint32]
    """[number of tokens]"""
    lengths: NDArray[np.int64]
    """Tokens of each document, [number of documents]."""


class Encoder(Protocol):
    """Turns documents into ids; uses all cores."""

    name: str
    """The library, as it is shown to the user."""

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """Return the ids of every document, in order."""


class ReferenceEncoder:
    """The tokenizer's own library: slow, and right by definition."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = "reference"
        self._tokenizer = tokenizer

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """See `Encoder`."""
        encoded = self._tokenizer.encode_documents(documents)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.uint32, count=int(lengths.sum()))
        return EncodedDocuments(ids, lengths)


class FastokensEncoder:
    """The package fastokens: byte-level BPE."""

    name = "fastokens"

    def __init__(self, tokenizer: Tokenizer) -> None:
        library = importlib.import_module("fastokens")
        self._path = tokenizer.path
        self._tokenizer = library.Tokenizer.from_json_str(_plain_description(tokenizer.path))

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """See `Encoder`."""
        return encoded(self._path, documents, self._encode)

    def _encode(self, documents: list[str]) -> EncodedDocuments:
        ids, borders = self._tokenizer.encode_batch_flat(documents, split_special_tokens=True)
        ends = np.frombuffer(borders, dtype="<u8").astype(np.int64)
        return EncodedDocuments(np.frombuffer(ids, dtype="<u4"), ends[1:] - ends[:-1])


class GigatokenEncoder:
    """The package gigatoken: SentencePiece BPE with byte fallback, byte-level BPE, and tiktoken files.

    It caches every word that it has seen without limit, so it is reopened when its cache has grown too much.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer, max_growth_bytes: int = MAX_GROWTH_BYTES) -> None:
        self._load = _gigatoken_loader(tokenizer)
        self._path = tokenizer.path
        self._normalized = tokenizer.normalized if isinstance(tokenizer, TiktokenTokenizer) else list[str]
        self._max_growth_bytes = max_growth_bytes
        self._open()

    def _open(self) -> None:
        self._tokenizer: Any = None  # the old one goes before the next one comes: never the memory of both
        self._tokenizer = self._load()
        self._resident_bytes = resident_bytes()
        self._num_characters = 0

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """See `Encoder`."""
        self._num_characters += sum(map(len, documents))
        if self._num_characters > CHARACTERS_BEFORE_A_LOOK and self._has_grown():
            self._open()
        return encoded(self._path, documents, self._encode)

    def _encode(self, documents: list[str]) -> EncodedDocuments:
        rows = self._tokenizer.encode_batch(self._normalized(documents)).layout
        borders = np.asarray(rows.offsets.data).astype(np.int64)
        ids = np.asarray(rows.content.data)[borders[0] : borders[-1]]
        return EncodedDocuments(ids, borders[1:] - borders[:-1])

    def _has_grown(self) -> bool:
        return resident_bytes() - self._resident_bytes > self._max_growth_bytes


def _gigatoken_loader(tokenizer: Tokenizer) -> Callable[[], Any]:
    """Return a function that opens the tokenizer without its control symbols, because in a text they are text."""
    kind = importlib.import_module("gigatoken").Tokenizer
    if isinstance(tokenizer, TiktokenTokenizer):
        name = tokenizer.splitting.name
        if name is None:
            raise ValueError("it splits text by a pattern of its own")
        return partial(kind.from_tiktoken, str(tokenizer.path), GIGATOKEN_SPLITS[name], {})
    if isinstance(tokenizer, SentencePieceTokenizer):
        reader = importlib.import_module("gigatoken._load.sentencepiece")
        description = reader.sentencepiece_to_tokenizer_json(read_file(tokenizer.path))
    else:
        description = read_file(tokenizer.path)
    return partial(kind.from_json, _without_control_symbols(description))


def resident_bytes() -> int:
    """Return the memory that this process has now; 0 if the system does not report it as Linux does."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


FAST_ENCODERS: Mapping[str, Callable[[Tokenizer], Encoder]] = {
    "fastokens": FastokensEncoder,
    "gigatoken": GigatokenEncoder,
}


def candidates(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the names of the fast encoders worth trying for this kind of tokenizer, best first."""
    if isinstance(tokenizer, SentencePieceTokenizer | TiktokenTokenizer):
        return ("gigatoken",)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return ("fastokens", "gigatoken")
    return ()


def _plain_description(path: Path) -> str:
    """Return a tokenizer.json without truncation and padding, which may have been saved with it."""
    description: dict[str, Any] = parse_described(read_file(path))
    return json.dumps(description | {"truncation": None, "padding": None}, ensure_ascii=False)


def _without_control_symbols(description: bytes | str) -> str:
    content: dict[str, Any] = parse_described(description)
    content["added_tokens"] = [token for token in content.get("added_tokens", []) if not token.get("special")]
    return json.dumps(content | {"truncation": None, "padding": None}, ensure_ascii=False)
