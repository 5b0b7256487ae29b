"""Measures how much the rules of a tokenizer can multiply a text: a few of them, each harmless, fill any memory.

`rules` is the value of `Tokenizer.rules`: the normalizer and the model as the library of a tokenizer.json describes
them, or those of a SentencePiece model.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping

from harness.errors import DataError

MOST_GROWTH = 1000
"""Characters that rules may write for one. Unicode's own normalization (NFKC) writes up to 18."""
_ADDED_KEYS = ("prepend", "prefix", "suffix", "continuing_subword_prefix", "end_of_word_suffix")
"""Texts that are put around a text, or around each of its words or characters."""


def require_moderate(rules: object, name: str) -> None:
    """Check that the rules of a tokenizer do not multiply texts out of all bounds.

    Args:
        rules: The value of `Tokenizer.rules`.
        name: The file's path, for the error.

    Raises:
        DataError: They do.
    """
    growth = math.prod(_factors(rules))
    if growth > MOST_GROWTH:
        raise DataError(
            f"tokenizer {name}: its rules may write {growth:,} characters for one; allowed are {MOST_GROWTH:,}. A text "
            "would fill the memory: take another tokenizer."
        )


def _factors(node: object) -> Iterator[int]:
    """Yield by how much each rule in a description may multiply a text."""
    if isinstance(node, list):
        for inner in node:
            yield from _factors(inner)
    elif isinstance(node, Mapping):
        yield from _own(node)
        for key, inner in node.items():
            if key not in ("pieces", "merges", "vocab", "added_tokens"):  # long, and no rules
                yield from _factors(inner)


def _own(node: Mapping[object, object]) -> Iterator[int]:
    if node.get("type") == "Replace":
        pattern, content = node.get("pattern"), node.get("content")
        replaced = pattern.get("String") if isinstance(pattern, Mapping) else None
        # A regular expression may match one character, or none at all: then the content comes to it.
        shortest = max(1, len(replaced)) if isinstance(replaced, str) else 1
        if isinstance(content, str):
            yield max(1, math.ceil(len(content) / shortest)) + (not isinstance(replaced, str))
    for key in _ADDED_KEYS:
        if isinstance(added := node.get(key), str):
            yield 1 + len(added)
    for key in ("precompiled_charsmap", "characters"):
        if isinstance(charsmap := node.get(key), str):
            yield _longest_in(charsmap)


def _longest_in(charsmap: str) -> int:
    """Return the bytes of the longest text in a table of SentencePiece: a trie behind its size, then texts with NUL."""
    try:
        content = base64.b64decode(charsmap)
    except (binascii.Error, ValueError):
        return 1  # the library refuses it
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    return max(1, *map(len, texts.split(b"\0")))
