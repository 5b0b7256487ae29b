"""A tokenizer translated into a `tokenizer.json`, opened as safely as a file of others: the rules in it are theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import DataError
from harness.tokenizers.tokenizer import Tokenizer, read_tokenizer
from harness.tokenizers.trial import try_out

_PATH = Path(os.devnull) / "tokenizer.json"
"""A path at which nothing can lie beside: it is in no folder."""
_FEW = 1000
"""Markers that are looked for in texts one by one, which is fast."""


def opened_translation(text: str) -> Tokenizer | None:
    """Return the translation of a tokenizer; None if its library cannot work with it, with its pattern, say."""
    try:
        try_out(_PATH, text.encode(), b"")
        return read_tokenizer(_PATH, text.encode())
    except DataError:
        return None


def without_markers(texts: Sequence[str], markers: Sequence[str]) -> list[str]:
    """Return the texts in which no marker is spelt out: that is a symbol to transformers, and text in a corpus."""
    if len(markers) <= _FEW:
        return [text for text in texts if not any(marker in text for marker in markers)]
    known, lengths = set(markers), sorted({len(marker) for marker in markers})
    return [
        text
        for text in texts
        if not any(text[begin : begin + length] in known for length in lengths for begin in range(len(text)))
    ]
