"""Adds words to a SentencePiece model as ordinary pieces, which its own way to choose pieces takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep.tokenizers.forms import forms_of
from data_prep.tokenizers.new_pieces import (
    PairVocabulary,
    UnigramVocabulary,
    Vocabulary,
    WholeWords,
    add_all,
    ranks_of_scores,
)
from harness.errors import UsageError
from harness.tokenizers.tokenizer_file import read_file


def extend_sentencepiece(file: Path, words: Sequence[str], spare: Callable[[int], Sequence[str]]) -> bytes:
    """Return the model with the words in its vocabulary, and control symbols behind them.

    Args:
        file: The model.
        words: To add.
        spare: Returns the control symbols for a number of ids so far.

    Raises:
        UsageError: It is a model of characters, which has no longer pieces.
    """
    from sentencepiece import SentencePieceProcessor
    from sentencepiece import sentencepiece_model_pb2 as model_format

    content = read_file(file)
    model: Any = model_format.ModelProto.FromString(content)
    kinds = model_format.ModelProto.SentencePiece
    processor = SentencePieceProcessor(model_proto=content)
    normal = {piece.piece: float(piece.score) for piece in model.pieces if piece.type == kinds.NORMAL}
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    vocabulary = _vocabulary(file, kind, normal)
    add_all(vocabulary, forms_of(words, lambda text: [processor.normalize(text)]))
    lowest = min(normal.values(), default=0.0)
    for number, piece in enumerate(vocabulary.new_pieces, start=1):
        score = vocabulary.scores[piece] if isinstance(vocabulary, UnigramVocabulary) else lowest - number
        model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    for symbol in spare(len(model.pieces)):
        model.pieces.add(piece=symbol, score=0.0, type=kinds.CONTROL)
    model.trainer_spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString())


def _vocabulary(file: Path, kind: str, scores: dict[str, float]) -> Vocabulary:
    if kind == "BPE":
        return PairVocabulary(set(scores), ranks_of_scores(scores), any_split=True)
    if kind == "UNIGRAM":
        return UnigramVocabulary(scores)
    if kind == "WORD":
        return WholeWords(set(scores))
    raise UsageError(f"tokenizer {file}: a SentencePiece model of the kind {kind} has no pieces of several characters.")
