"""Finds the words of a text that would save the most tokens if each were one token."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data_prep.text.scripts import WORD, script_of
from harness.tokenizers.tokenizer import Tokenizer

LEAST_OCCURRENCES = 2


def saving_words(documents: Sequence[str], tokenizer: Tokenizer, count: int) -> list[str]:
    """Return up to `count` words, those that save the most first.

    Of a script without spaces, where a word has no borders, they are strings of letters that hold about as much as two
    English words, in the mean.
    """
    counts = {word: number for word, number in _words(documents).items() if number >= LEAST_OCCURRENCES}
    tokens = tokenizer.encode_documents([f" {word}" for word in counts]) if counts else []
    saved = {word: counts[word] * (len(ids) - 1) for word, ids in zip(counts, tokens, strict=True)}
    return sorted((word for word in saved if saved[word]), key=lambda word: -saved[word])[:count]


def _words(documents: Sequence[str]) -> Counter[str]:
    script = script_of("\n".join(documents))
    if script is None:
        return Counter(word for text in documents for word in WORD.findall(text))
    length = round(2 * script.per_word)
    runs = (run for text in documents for run in re.findall(f"[{script.characters}]+", text))
    return Counter(run[begin : begin + length] for run in runs for begin in range(len(run) - length + 1))
