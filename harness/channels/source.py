"""Reads `source.json` of a channel folder: what the channel was made from, and what is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.tokenizers.identity import TokenizerIdentity, recorded_identity

SOURCE_FILE = "source.json"


@dataclass
class Totals:
    """Running counts over the input, including what an earlier, interrupted call has written."""

    lines: int = 0
    rejected: int = 0
    """Lines that were not documents; they are listed in `rejected.jsonl`."""
    documents: int = 0
    tokens: int = 0
    """Tokens written, the end-of-document tokens included."""
    characters: int = 0
    """Unicode characters of the documents."""
    split: int = 0
    """Documents that were longer than allowed and were cut into several."""
    dropped: int = 0
    """Documents that were longer than allowed and were left out."""

    @property
    def rejected_share(self) -> float:
        """Rejected lines, as a share of all lines read."""
        return self.rejected / self.lines if self.lines else 0.0

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters in a token: the first number to look at in a tokenizer."""
        return self.characters / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that determines the parts. Equal sources give equal parts, byte for byte."""

    inputs: tuple[tuple[str, int], ...]
    """Name and size in bytes of each input file, in order (not the folder: corpora get moved)."""
    tokenizer: TokenizerIdentity
    text_key: str
    end_of_document_id: int | None
    """Token appended to every document; None for no token."""
    tokens_per_part: int
    max_document_tokens: int | None = None
    """Length above which a document is split or dropped; None where any length is kept."""
    long_documents: str = "keep"


@dataclass(frozen=True)
class RecordedSource:
    """The contents of `source.json`."""

    source: Source
    finished: Totals | None
    """Counts of the finished channel; None while work is left."""


def read_source(folder: Path) -> RecordedSource | None:
    """Return the recorded source of a channel folder; None for a bare prefix, or if another program made the channel.

    Raises:
        DataError: `source.json` is unreadable.
    """
    return _read(folder / SOURCE_FILE) if (folder / SOURCE_FILE).exists() else None


def _read(file: Path) -> RecordedSource:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        finished = content.pop("finished")
        inputs = tuple((str(name), int(size)) for name, size in content.pop("inputs"))
        tokenizer = _tokenizer(content.pop("tokenizer"), content.pop("vocab_size", None))
        source = Source(inputs=inputs, tokenizer=tokenizer, **content)
        return RecordedSource(source, Totals(**finished) if finished else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: not readable ({error}). Was it edited? Restore it, or delete the channel folder to make it anew."
        ) from error


def _tokenizer(record: object, vocab_size: object) -> TokenizerIdentity:
    """Return the recorded tokenizer. Earlier versions wrote the hash of its file, and the number of its ids beside."""
    if isinstance(record, str) and isinstance(vocab_size, int):
        return TokenizerIdentity(file="a file", xxh3=record, vocab_size=vocab_size)
    found = recorded_identity(record)
    if found is None:
        raise ValueError("it does not say which tokenizer made the channel")
    return found
