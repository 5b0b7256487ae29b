"""Adds words to a tokenizer behind its own ids, which do not change.

In a tokenizer.json an added Chinese word is one token wherever it occurs. Any other word is one only between spaces and
punctuation, so that "art" does not split "party". SentencePiece takes a word wherever it occurs. The report lists the
effect on the other words of a corpus, because a model has learnt their old ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.tokenizers.tokenizer_report import HAN, changed_words
from data_prep.tokenizers.train_tokenizer import padded_vocab_size
from harness.errors import UsageError
from harness.tokenizers.hugging_face_file import HuggingFaceTokenizer
from harness.tokenizers.native import explained
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tokenizer import Tokenizer
from harness.tokenizers.tokenizer_file import read_file

EXAMPLES_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class ExtensionReport:
    """The effect of the added words on the encoding of a corpus."""

    tokens_before: int
    tokens_after: int
    words: int
    """Distinct words of the corpus that were not added."""
    changed: tuple[str, ...]
    """Those that are encoded in other ids now."""


def extend(tokenizer: Tokenizer, words: Sequence[str]) -> bytes:
    """Return the file of the extended tokenizer: words, then control symbols up to a multiple of 128 ids.

    Raises:
        UsageError: There are no words, a word is a token already, or the file is a tiktoken file.
    """
    if not words:
        raise UsageError("there are no words to add. Give a file with a word per line.")
    known = [word for word, ids in zip(words, tokenizer.encode_documents(list(words)), strict=True) if len(ids) == 1]
    if known:
        raise UsageError(f"{known[0]!r} is a single token already. Remove it from the list ({len(known)} such words).")
    size = padded_vocab_size(tokenizer.vocab_size + len(words))
    spare = [f"<|added_{number}|>" for number in range(size - tokenizer.vocab_size - len(words))]
    with explained(tokenizer.path, "words cannot be added"):
        if isinstance(tokenizer, HuggingFaceTokenizer):
            return _extend_json(tokenizer.path, tokenizer.vocab_size, words, spare)
        if isinstance(tokenizer, SentencePieceTokenizer):
            return _extend_sentencepiece(tokenizer.path, words, spare)
    raise UsageError(
        f"tokenizer {tokenizer.path}: words can be added to a SentencePiece model or a tokenizer.json, not to a "
        "tiktoken file, whose splitting lies outside it. Convert it to a tokenizer.json first."
    )


def report_on_extension(
    documents: Sequence[str], extended: Tokenizer, original: Tokenizer, words: Sequence[str]
) -> ExtensionReport:
    """Encode a corpus with both."""
    before, after = (sum(map(len, tokenizer.encode_documents(list(documents)))) for tokenizer in (original, extended))
    compared = changed_words(documents, extended, original)
    added = set(words)
    return ExtensionReport(
        tokens_before=before,
        tokens_after=after,
        words=sum(word not in added for word in compared.words),
        changed=tuple(word for word in compared.changed if word not in added),
    )


def _extend_json(file: Path, vocab_size: int, words: Sequence[str], spare: Sequence[str]) -> bytes:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(read_file(file).decode("utf-8-sig"))
    plain = [AddedToken(word, normalized=False, special=False, single_word=not HAN.search(word)) for word in words]
    tokenizer.add_tokens(plain)
    tokenizer.add_special_tokens([AddedToken(symbol, normalized=False, special=True) for symbol in spare])
    ids = [tokenizer.token_to_id(token) for token in (*words, *spare)]
    if ids != list(range(vocab_size, vocab_size + len(ids))):
        raise UsageError(f"tokenizer {file}: its ids have gaps, which the new words would fill. It cannot be extended.")
    return str(tokenizer.to_str(pretty=False)).encode()


def _extend_sentencepiece(file: Path, words: Sequence[str], spare: Sequence[str]) -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as model_format

    model: Any = model_format.ModelProto()
    model.ParseFromString(read_file(file))
    kinds = model_format.ModelProto.SentencePiece
    for words_of_kind, kind in ((words, kinds.USER_DEFINED), (spare, kinds.CONTROL)):
        for word in words_of_kind:
            model.pieces.add(piece=word, score=0.0, type=kind)
    model.trainer_spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString())
