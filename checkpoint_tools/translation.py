"""A tokenizer as the `tokenizer.json` that transformers reads, made in a child process: its library is native code."""

from __future__ import annotations

import json
from pathlib import Path

from checkpoint_tools import sentencepiece_model, tiktoken_model
from harness.errors import HarnessError
from harness.limited_child import LimitedError, limited
from harness.tokenizers.native import explained
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tiktoken_file import TiktokenTokenizer
from harness.tokenizers.tokenizer import Tokenizer, read_tokenizer
from harness.tokenizers.tokenizer_file import read_file
from harness.tokenizers.trial import MEMORY_BYTES

SECONDS = 600.0
"""Time for a translation, which looks at every way to make every piece. One of 150,000 ids takes a minute."""


def translated(tokenizer: Tokenizer) -> str | None:
    """Return a SentencePiece or a tiktoken file as a tokenizer.json; None if none gives the same ids."""
    if not isinstance(tokenizer, SentencePieceTokenizer | TiktokenTokenizer):
        return None
    request = json.dumps(str(tokenizer.path)).encode()
    try:
        return limited(in_child, request, memory_bytes=MEMORY_BYTES, seconds=SECONDS).decode() or None
    except LimitedError:
        return None


def in_child(content: bytes) -> bytes:
    """Return the translation of a tokenizer; empty if there is none. Runs in the child.

    Args:
        content: The path of its file, as JSON.
    """
    path = Path(json.loads(content))  # noqa: TID251 (our own parent's request)
    file = read_file(path)
    try:
        with explained(path, "it cannot be translated"):
            tokenizer = read_tokenizer(path, file)
            if isinstance(tokenizer, TiktokenTokenizer):
                return (tiktoken_model.as_tokenizer_json(tokenizer) or "").encode()
            return (sentencepiece_model.as_tokenizer_json(file) or "").encode()
    except HarnessError:
        return b""
