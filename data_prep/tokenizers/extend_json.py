"""Adds words to a tokenizer.json as pieces of its own vocabulary, with the merges that make them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep.tokenizers.forms import forms_of
from data_prep.tokenizers.new_pieces import (
    Join,
    PairVocabulary,
    UnigramVocabulary,
    Vocabulary,
    WholeWords,
    add_all,
    ranks_of_merges,
)
from harness.errors import UsageError
from harness.tokenizers.tokenizer_file import parse_described, read_file

_NEVER = -1e9
"""Score of an entry that only holds the place of a symbol."""


def extend_json(file: Path, words: Sequence[str], spare: Callable[[int], Sequence[str]]) -> bytes:
    """Return the file with the words in its vocabulary, and control symbols behind them.

    Args:
        file: The tokenizer.json.
        words: To add.
        spare: Returns the control symbols for a number of ids so far.

    Raises:
        UsageError: It has a kind of vocabulary to which words cannot be added.
    """
    content = read_file(file)
    described = parse_described(content)
    model = described["model"]
    if model.get("continuing_subword_prefix") and model["type"] == "BPE" or model.get("end_of_word_suffix"):
        raise UsageError(
            f"tokenizer {file}: its pieces have marks for the inside or the end of a word, as those of GPT-1 and CLIP. "
            "Words cannot be added to such a vocabulary."
        )
    vocabulary = _vocabulary(file, model)
    add_all(vocabulary, _spellings(content.decode("utf-8-sig"), words))
    added = described.setdefault("added_tokens", [])
    first = 1 + max([*_ids(model).values(), *(token["id"] for token in added)])
    symbols = spare(first + len(vocabulary.new_pieces))
    begin = first + len(vocabulary.new_pieces)
    added += [_control_symbol(text, begin + number) for number, text in enumerate(symbols)]
    # The library numbers the symbols behind the vocabulary when it opens the file, unless they are entries of it.
    places = {token["content"]: token["id"] for token in added}
    new = {piece: first + number for number, piece in enumerate(vocabulary.new_pieces)}
    _put(model, places | new, vocabulary)
    return json.dumps(described, ensure_ascii=False).encode()


def _vocabulary(file: Path, model: dict[str, Any]) -> Vocabulary:
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind == "BPE":
        return PairVocabulary(set(model["vocab"]), ranks_of_merges(_merges(model)))
    if kind == "Unigram":
        return UnigramVocabulary({piece: float(score) for piece, score in model["vocab"]})
    if kind in ("WordPiece", "WordLevel"):
        return WholeWords(set(model["vocab"]))
    raise UsageError(f"tokenizer {file}: words cannot be added to a vocabulary of the kind {kind!r}.")


def _spellings(text: str, words: Sequence[str]) -> list[str]:
    """Return the strings of the vocabulary that the words are spelt with."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)

    def cut(text: str) -> list[str]:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        if tokenizer.pre_tokenizer is None:
            return [normal]
        return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    return forms_of(words, cut)


def _merges(model: dict[str, Any]) -> list[Join]:
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
    return [(one, other) for one, other in pairs]


def _ids(model: dict[str, Any]) -> dict[str, int]:
    if isinstance(model["vocab"], dict):
        return dict(model["vocab"])
    return {piece: number for number, (piece, _) in enumerate(model["vocab"])}


def _put(model: dict[str, Any], ids: dict[str, int], vocabulary: Vocabulary) -> None:
    """Enter pieces and symbols with their ids, and the new merges in the way the file writes them."""
    if isinstance(vocabulary, UnigramVocabulary):
        entries: list[Any] = model["vocab"]
        for piece, number in sorted(ids.items(), key=lambda entry: entry[1]):
            if number >= len(entries):
                entries += [[f"<|gap_{gap}|>", _NEVER] for gap in range(len(entries), number)]
                entries.append([piece, vocabulary.scores.get(piece, _NEVER)])
        return
    for piece, number in ids.items():
        model["vocab"].setdefault(piece, number)
    if isinstance(vocabulary, PairVocabulary):
        as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
        model["merges"] += [" ".join(pair) if as_text else list(pair) for pair in vocabulary.new_joins]


def _control_symbol(text: str, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
