"""Reports on a tokenizer on real text: characters per token, text spelt in bytes, odd tokens, and the round trip."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.text.scripts import UNIT
from data_prep.tokenizers.round_trip import lost_characters
from harness.tokenizers.tokenizer import Tokenizer

LONGEST_SHOWN = 12
SUSPICIOUS_SHOWN = 30
LONG_TOKEN_CHARACTERS = 24


@dataclass(frozen=True, kw_only=True)
class TextReport:
    """Measurements of a tokenizer on the documents of one channel."""

    name: str
    documents: int
    characters: int
    tokens: int
    characters_per_token: float
    bytes_per_token: float
    byte_pieces_share: float
    """Share of the tokens that are a piece of a character: what is not covered is spelt in bytes."""
    distinct_ids_share: float
    """Share of the vocabulary that occurs."""
    changed_documents: int
    """Documents that do not come back byte for byte."""
    lost_share: float
    """Share of the characters that do not come back."""
    unknown_tokens: int
    """Tokens that stand for no text."""


@dataclass(frozen=True, kw_only=True)
class VocabularyReport:
    """Measurements of a vocabulary, without any text."""

    vocab_size: int
    is_multiple_of_128: bool
    end_of_document_id: int | None
    """None if it is not known which symbol ends a document."""
    control_symbols: int
    splits_digits: bool
    longest: tuple[str, ...]
    """The longest tokens."""
    suspicious: tuple[tuple[str, str], ...]
    """Tokens that may be unwanted, and why: (token, reason)."""


@dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """Two tokenizers on the same text."""

    tokens_ratio: float
    """Tokens of the first for one of the second: below 1 the first is the shorter."""
    words: int
    """Distinct words of the text."""
    changed_words: int
    """Words that the two encode in different ids."""
    examples: tuple[str, ...]


def report_on_text(name: str, documents: Sequence[str], tokenizer: Tokenizer) -> TextReport:
    """Encode and decode the documents."""
    encoded = tokenizer.encode_documents(list(documents))
    partial, has_no_text = _partial_ids(tokenizer), [piece.is_control for piece in tokenizer.pieces()]
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    changed = lost = 0
    for text, ids in zip(documents, encoded, strict=True):
        counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=tokenizer.vocab_size)
        decoded = tokenizer.decode(ids)
        changed += decoded != text
        lost += lost_characters(text, decoded).total()
    tokens = int(counts.sum())
    characters = sum(map(len, documents))
    return TextReport(
        name=name,
        documents=len(documents),
        characters=characters,
        tokens=tokens,
        characters_per_token=characters / max(1, tokens),
        bytes_per_token=sum(len(text.encode()) for text in documents) / max(1, tokens),
        byte_pieces_share=float(counts[partial].sum()) / max(1, tokens),
        distinct_ids_share=float((counts > 0).mean()),
        changed_documents=changed,
        lost_share=lost / max(1, characters),
        unknown_tokens=int(counts[np.array(has_no_text)].sum()),
    )


def report_on_vocabulary(tokenizer: Tokenizer) -> VocabularyReport:
    """Measure a vocabulary token by token."""
    texts = _texts(tokenizer)
    controls = tokenizer.control_symbols()
    digits = tokenizer.encode_documents(["2026"])[0]
    by_length = sorted(set(texts), key=lambda text: (-len(text), text))
    suspicious = [(text, reason) for text in by_length if (reason := _reason(text))]
    return VocabularyReport(
        vocab_size=tokenizer.vocab_size,
        is_multiple_of_128=tokenizer.vocab_size % 128 == 0,
        end_of_document_id=tokenizer.symbols.end.id if tokenizer.symbols.end else None,
        control_symbols=len(controls),
        splits_digits=sum(tokenizer.decode([token]).strip().isdigit() for token in digits) == len("2026"),
        longest=tuple(by_length[:LONGEST_SHOWN]),
        suspicious=tuple(suspicious[:SUSPICIOUS_SHOWN]),
    )


@dataclass(frozen=True, kw_only=True)
class ChangedWords:
    """Words that two tokenizers encode in different ids."""

    words: tuple[str, ...]
    """All distinct words of the text."""
    changed: tuple[str, ...]


def changed_words(documents: Sequence[str], first: Tokenizer, second: Tokenizer) -> ChangedWords:
    """Encode every distinct word of the text (a run of letters; a Chinese character) with both."""
    words = list(dict.fromkeys(word for text in documents for word in _words(text)))
    pairs = zip(words, first.encode_documents(words), second.encode_documents(words), strict=True)
    changed = tuple(word for word, one, other in pairs if one != other)
    return ChangedWords(words=tuple(words), changed=changed)


def compare(documents: Sequence[str], first: Tokenizer, second: Tokenizer) -> ComparisonReport:
    """Encode the same text, and every distinct word of it, with both."""
    tokens = [sum(map(len, tokenizer.encode_documents(list(documents)))) for tokenizer in (first, second)]
    found = changed_words(documents, first, second)
    return ComparisonReport(
        tokens_ratio=tokens[0] / max(1, tokens[1]),
        words=len(found.words),
        changed_words=len(found.changed),
        examples=found.changed[:LONGEST_SHOWN],
    )


def _words(text: str) -> Iterator[str]:
    """Yield the words of a text, and the letters of scripts without spaces; no numbers."""
    return (unit for unit in UNIT.findall(text) if any(map(str.isalpha, unit)))


def _texts(tokenizer: Tokenizer) -> list[str]:
    """Return the text of every token that stands for whole characters."""
    texts = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    return [text for text in texts if text and "\N{REPLACEMENT CHARACTER}" not in text]


def _partial_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that stand for a piece of a character; none if their bytes are not known."""
    sizes = tokenizer.bytes_per_token() or []
    return [token for token, size in enumerate(sizes) if size > 0 and _is_partial(tokenizer, token, size)]


def _is_partial(tokenizer: Tokenizer, token: int, num_bytes: int) -> bool:
    text = tokenizer.decode([token])
    # A lone byte below 128 is a character of its own; the library may write others as U+FFFD.
    return "\N{REPLACEMENT CHARACTER}" in text and len(text.encode()) != num_bytes


REASONS: Mapping[str, re.Pattern[str]] = {
    "an address": re.compile(r"https?|www\.|\.com|\.cn\b", re.I),
    "a number of several digits": re.compile(r"\d{2,}"),
    "one character many times": re.compile(r"([^\s])\1{7,}"),
    "control characters": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]."),
}


def _reason(text: str) -> str | None:
    for reason, pattern in REASONS.items():
        if pattern.search(text):
            return reason
    if len(text) > LONG_TOKEN_CHARACTERS and text.strip():
        return f"{len(text)} characters long"
    scripts = Counter(_script(character) for character in text if character.isalpha())
    if len(scripts) > 1:
        return f"letters of several scripts ({', '.join(sorted(scripts))})"
    return None


def _script(character: str) -> str:
    """Return the first word of the character's name: LATIN, CJK, CYRILLIC …; kana and Han count as one."""
    name = unicodedata.name(character, "UNKNOWN").split()[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC") else name
