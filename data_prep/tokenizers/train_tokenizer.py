"""Trains a tokenizer on a sample of channels: SentencePiece BPE with byte fallback, or byte-level BPE.

For every kind: text comes back byte for byte, every digit is a separate token, spare ids are reserved for later stages
(chat markers, tools), the number of ids is a multiple of 128, and no token contains a forbidden word, because the
sample is cut inside each of them.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import UsageError

Kind = Literal["sentencepiece", "byte-level"]
END_OF_DOCUMENT = "<|endoftext|>"
MULTIPLE = 128
MAX_SENTENCE_BYTES = 1 << 20
SENTENCEPIECE_OPTIONS: Mapping[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "max_sentence_length": MAX_SENTENCE_BYTES,
    "unk_id": 0,
    "bos_id": -1,
    "pad_id": -1,
    "eos_id": 1,
    "eos_piece": END_OF_DOCUMENT,
    "minloglevel": 2,
}
"""Text comes back byte for byte: no normalization, no space put in front, unknown characters in bytes."""
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern by which byte-level BPE cuts text into words: the published one of Qwen 3.5, which is GPT-4's with one digit
at a time, and letters keep the marks with which Hindi, Tamil, Thai or Burmese write their vowels. Without them no token
of these languages could be longer than a syllable."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Settings of the tokenizer to train."""

    kind: Kind
    vocab_size: int
    """All ids, control symbols and spare ids included; rounded up to a multiple of 128."""
    num_spare_ids: int = 1000
    user_words: Sequence[str] = ()
    """Words that are always one token."""
    forbidden_words: Sequence[str] = ()
    """Words that no token may contain."""
    character_coverage: float = 0.9995
    """Share of the sample's characters that get an id of their own (SentencePiece); the rare rest is spelt in bytes."""
    num_threads: int = 1
    """More than one is faster. SentencePiece's result does not depend on it."""


def padded_vocab_size(vocab_size: int) -> int:
    """Return the next multiple of 128, which tensor cores and vocabulary-parallel ranks need."""
    return -(-vocab_size // MULTIPLE) * MULTIPLE


def spare_symbols(count: int) -> list[str]:
    """Return the names of the spare ids."""
    return [f"<|spare_{number}|>" for number in range(count)]


def train(sample: Iterator[str], settings: TrainerSettings) -> bytes:
    """Return the file of the tokenizer: a SentencePiece model, or a tokenizer.json. Equal samples give equal bytes.

    Raises:
        UsageError: The vocabulary has no room for what must be in it, or is too large for the sample.
    """
    _check(settings)
    sentences = cut_at_words(sample, settings.forbidden_words)
    if settings.kind == "byte-level":
        return _train_byte_level(sentences, settings)
    return _train_sentencepiece(sentences, settings)


def cut_at_words(sample: Iterator[str], words: Sequence[str]) -> Iterator[str]:
    """Yield the texts, cut in two behind the first character of every forbidden word (in any case)."""
    if not words:
        yield from sample
        return
    # Longest first: of two words that begin alike both must be cut, and a cut in the longer one is one in the shorter.
    pattern = re.compile("|".join(f"(?={re.escape(word)})" for word in sorted(words, key=len, reverse=True)), re.I)
    for text in sample:
        borders = [0, *(match.start() + 1 for match in pattern.finditer(text)), len(text)]
        yield from (text[begin:end] for begin, end in itertools.pairwise(borders) if begin < end)


def _check(settings: TrainerSettings) -> None:
    short = [word for word in settings.forbidden_words if len(word) < 2]
    if short:
        raise UsageError(
            f"forbidden word {short[0]!r} has fewer than two characters: tokens cannot be kept from single characters."
        )
    both = [
        word for word in settings.user_words if any(bad.lower() in word.lower() for bad in settings.forbidden_words)
    ]
    if both:
        raise UsageError(f"user word {both[0]!r} contains a forbidden word. Remove it from one of the two lists.")
    needed = 256 + 2 + settings.num_spare_ids + len(settings.user_words)
    if padded_vocab_size(settings.vocab_size) <= needed:
        raise UsageError(
            f"--vocab-size {settings.vocab_size} leaves no room for words: 256 bytes, control symbols, "
            f"{settings.num_spare_ids} spare ids and {len(settings.user_words)} user words need {needed}. Give more."
        )


def _train_sentencepiece(sentences: Iterator[str], settings: TrainerSettings) -> bytes:
    size = padded_vocab_size(settings.vocab_size)
    try:
        return train_sentencepiece(
            _short_enough(sentences),
            size,
            settings.character_coverage,
            num_threads=settings.num_threads,
            control_symbols=spare_symbols(settings.num_spare_ids),
            user_words=settings.user_words,
        )
    except RuntimeError as error:
        raise UsageError(
            f"SentencePiece cannot train {size} ids on this sample: {error}. "
            "Give more text (--sample-characters), a smaller --vocab-size, or a lower --character-coverage."
        ) from error


def train_sentencepiece(
    sentences: Iterator[str],
    vocab_size: int,
    character_coverage: float,
    num_threads: int = 1,
    control_symbols: Sequence[str] = (),
    user_words: Sequence[str] = (),
) -> bytes:
    """Return a SentencePiece BPE model.

    Raises:
        RuntimeError: From SentencePiece, for example if the vocabulary is too large for the sample.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        **SENTENCEPIECE_OPTIONS,
        num_threads=num_threads,
        control_symbols=list(control_symbols),
        user_defined_symbols=list(user_words),
    )
    return model.getvalue()


def _short_enough(sentences: Iterator[str]) -> Iterator[str]:
    """Yield texts in pieces that SentencePiece does not leave out for their length."""
    longest = MAX_SENTENCE_BYTES // 4
    for text in sentences:
        for begin in range(0, len(text), longest):
            yield text[begin : begin + longest]


def _train_byte_level(sentences: Iterator[str], settings: TrainerSettings) -> bytes:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    size = padded_vocab_size(settings.vocab_size)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1 - settings.num_spare_ids - len(settings.user_words),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    # Spare ids last, so that the learnt tokens keep their ids when more are added.
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in settings.user_words])
    symbols = [END_OF_DOCUMENT, *spare_symbols(settings.num_spare_ids)]
    tokenizer.add_special_tokens([AddedToken(symbol, normalized=False, special=True) for symbol in symbols])
    if tokenizer.get_vocab_size() < size:
        raise UsageError(
            f"the sample has words for {tokenizer.get_vocab_size()} ids only, not for {size}. "
            "Give more text (--sample-characters) or a smaller --vocab-size."
        )
    return str(tokenizer.to_str(pretty=False)).encode()
