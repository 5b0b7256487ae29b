"""Small tokenizers of several kinds, trained on a few sentences in a moment."""

from __future__ import annotations

import io
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

WORDS = [
    "read",
    "write",
    "count",
    "sing",
    "build",
    "carry",
    "learn",
    "hold",
    "keep",
    "trust",
    "weigh",
    "measure",
    "prove",
    "find",
]
TEXTS = [f"The {number}th word of a text: {word}ing, {word}ed; {word * 2}!" for number, word in enumerate(WORDS)]


def byte_level(**changes: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=changes.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=changes.get("vocab_size", 330),
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece_model(**options: Any) -> bytes:
    model = io.BytesIO()
    defaults: dict[str, Any] = {"vocab_size": 360, "model_type": "bpe", "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, **{**defaults, **options}
    )
    return model.getvalue()
