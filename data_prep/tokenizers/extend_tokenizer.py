"""Adds words to a tokenizer behind its own ids, which do not change.

A word becomes a piece of the vocabulary like any other, once as it stands behind a space and once without; the library
chooses it by its own rules. What became of it is checked with that library before anything is written: a text comes
back as well as before, and takes fewer tokens. The report lists the effect on the other words of a corpus, because a
model has learnt their old ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.tokenizers.extend_json import extend_json
from data_prep.tokenizers.extend_sentencepiece import extend_sentencepiece
from data_prep.tokenizers.forms import in_context, is_behind_space
from data_prep.tokenizers.round_trip import round_trip
from data_prep.tokenizers.tokenizer_report import changed_words
from data_prep.tokenizers.train_tokenizer import padded_vocab_size
from harness.errors import UsageError
from harness.tokenizers.hugging_face_file import HuggingFaceTokenizer
from harness.tokenizers.native import explained
from harness.tokenizers.sentencepiece_file import SentencePieceTokenizer
from harness.tokenizers.tokenizer import Tokenizer

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
    lost_before: int
    """Characters of the corpus that do not come back from the tokens of the original."""
    lost_after: int


def extend(tokenizer: Tokenizer, words: Sequence[str]) -> bytes:
    """Return the file of the extended tokenizer: words, then control symbols up to a multiple of 128 ids.

    Raises:
        UsageError: There are no words, all are single tokens already, or the file is of a kind that takes none.
    """
    if not words:
        raise UsageError("there are no words to add. Give a file with a word per line.")
    if len(single(tokenizer, words)) == len(words):
        raise UsageError(f"all {len(words):,} words are single tokens already, as {words[0]!r}. Nothing would change.")
    with explained(tokenizer.path, "words cannot be added"):
        if isinstance(tokenizer, HuggingFaceTokenizer):
            return extend_json(tokenizer.path, words, _spare)
        if isinstance(tokenizer, SentencePieceTokenizer):
            return extend_sentencepiece(tokenizer.path, words, _spare)
    raise UsageError(
        f"tokenizer {tokenizer.path}: words can be added to a SentencePiece model or a tokenizer.json, not to a "
        "tiktoken file, whose splitting lies outside it. Convert it to a tokenizer.json first."
    )


def single(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that are one token, wherever they usually stand."""
    found = list(words)
    for space in (True, False):
        there = [word for word in found if not space or is_behind_space(word)]
        before, *texts = tokenizer.encode_documents([in_context(word, space=space).rstrip() for word in ("", *there)])
        longer = {word for word, ids in zip(there, texts, strict=True) if len(ids) > len(before) + 1}
        found = [word for word in found if word not in longer]
    return tuple(found)


def _spare(num_ids: int) -> list[str]:
    """Return the control symbols that lead from a number of ids to a multiple of 128."""
    return [f"<|added_{number}|>" for number in range(padded_vocab_size(num_ids) - num_ids)]


def require_better(reports: Mapping[str, ExtensionReport], extended: Tokenizer, original: Tokenizer) -> None:
    """Refuse an extended tokenizer that loses text, takes more tokens, or saves none.

    Raises:
        UsageError: It does, with the numbers; nothing should be written.
    """
    problems = [
        f"{name}: {report.lost_after:,} characters do not come back, {report.lost_before:,} with the original"
        for name, report in reports.items()
        if report.lost_after > report.lost_before
    ]
    problems += [
        f"{name}: {report.tokens_after:,} tokens, {report.tokens_before:,} with the original"
        for name, report in reports.items()
        if report.tokens_after > report.tokens_before
    ]
    if changed := _other_symbols(extended, original):
        problems.append(
            f"the control symbol {changed[0]}, spelt in a text, is taken for the symbol by only one of both"
        )
    before, after = (
        sum(getattr(report, name) for report in reports.values()) for name in ("tokens_before", "tokens_after")
    )
    if not problems and after >= before:
        problems.append(f"none of the words saves a token on the {before:,} tokens of this text")
    if problems:
        raise UsageError(
            "the extended tokenizer would be no better; nothing was written:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nGive words that occur in the text, and text like what will be trained on."
        )


def _other_symbols(extended: Tokenizer, original: Tokenizer) -> list[str]:
    """Return the control symbols that only one of both tokenizers finds in a text in which they are spelt."""
    symbols = original.control_symbols()
    if not symbols:
        return []
    controls = {number for number, piece in enumerate(extended.pieces()) if piece.is_control}
    rows = zip(symbols, original.encode_documents(symbols), extended.encode_documents(symbols), strict=True)
    return [
        symbol
        for symbol, before, after in rows
        if not controls.intersection(after) <= set(before) or (len(before) == 1 and after != before)
    ]


def report_on_extension(
    documents: Sequence[str], extended: Tokenizer, original: Tokenizer, words: Sequence[str]
) -> ExtensionReport:
    """Encode a corpus with both."""
    before, after = (round_trip(documents, tokenizer) for tokenizer in (original, extended))
    compared = changed_words(documents, extended, original)
    added = set(words)
    return ExtensionReport(
        tokens_before=before.tokens,
        tokens_after=after.tokens,
        words=sum(word not in added for word in compared.words),
        changed=tuple(word for word in compared.changed if word not in added),
        lost_before=before.lost.total(),
        lost_after=after.lost.total(),
    )
