"""Reads every byte of a channel and reports its faults: structure, hashes, ids, symbols around documents, lost text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from harness.channels.parts import Part
from harness.channels.provenance_of_parts import provenance_of
from harness.data.files.opened import OpenPart, open_part
from harness.errors import DataError
from harness.tokenizers.pieces import Piece

TOKENS_AT_ONCE = 4 << 20
DOCUMENTS_READ = 200
"""Documents of a part that are read as text."""
TOKENS_READ = 4096
"""Tokens of each, at most."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Expected properties of the tokens; None is not checked."""

    vocab_size: int | None = None
    end_id: int | None = None
    begin_id: int | None = None
    unknown_id: int | None = None
    pieces: Sequence[Piece] | None = None
    """The meaning of each id; with it a sample of every part is read as text."""


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """The findings for one part."""

    prefix: str
    """Path of the part without `.bin` and `.idx`."""
    tokens: int = 0
    documents: int = 0
    empty_documents: int = 0
    """Documents without a token."""
    max_id: int = -1
    tokens_beyond_vocabulary: int = 0
    ended_documents: int = 0
    """Documents whose last token is the end-of-document token."""
    inner_ends: int = 0
    """End-of-document tokens that are not the last of a document, nor the first if they begin documents, too."""
    begun_documents: int = 0
    """Documents whose first token is the symbol that begins documents."""
    inner_begins: int = 0
    """Such symbols that are not the first of a document."""
    unknown_tokens: int = 0
    """Tokens that are the tokenizer's unknown symbol."""
    text_characters: int = 0
    """Characters of the documents that were read as text."""
    broken_characters: int = 0
    """Characters among these that are no character: bytes are missing."""
    has_provenance: bool = False
    """True if it is recorded where the documents came from."""
    problems: tuple[str, ...] = ()


def verify_parts(
    parts: Sequence[Part], expected: Expectation, num_threads: int, done: Callable[[int], None]
) -> list[PartReport]:
    """Report on every part, in order, several at a time; `done` is called with the bytes of each that is finished."""

    def verify(part: Part) -> PartReport:
        report = verify_part(part, expected)
        done(part.bin_bytes)
        return report

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(verify, parts))


def verify_part(part: Part, expected: Expectation) -> PartReport:
    """Read the whole part once, in bounded memory, and report its faults."""
    try:
        opened = open_part(part)
    except DataError as error:
        return PartReport(prefix=str(part.prefix), problems=(str(error),))
    seen = _read_through(opened.tokens, expected)
    has_provenance, problems = _check_provenance(part)
    if part.xxh3 is not None and seen.xxh3 != part.xxh3:
        problems.append(
            f"{part.bin_path} was altered: its hash is {seen.xxh3}, but {part.xxh3} in the list of parts. "
            "Copy or make the part again."
        )
    if seen.num_beyond:
        problems.append(
            f"{part.bin_path}: {seen.num_beyond:,} tokens are beyond the vocabulary of {expected.vocab_size:,} ids "
            f"(the largest is {seen.max_id}). The part was made with another tokenizer, or is damaged: make it again."
        )
    ended = _count_at_border(opened, expected.end_id, is_last=True)
    begun = _count_at_border(opened, expected.begin_id, is_last=False)
    num_inner_ends, num_inner_begins = seen.num_ends - ended, seen.num_begins - begun
    if expected.end_id is not None and expected.end_id == expected.begin_id:
        # One symbol for both: it stands inside where it is neither, and is told once.
        num_inner_ends -= begun - _count_alone(opened, expected.end_id)
        num_inner_begins = 0
    characters, broken = (0, 0) if expected.pieces is None else read_as_text(opened, expected.pieces)
    return PartReport(
        prefix=str(part.prefix),
        tokens=part.num_tokens,
        documents=part.num_documents,
        empty_documents=int((opened.table.lengths == 0).sum()),
        max_id=seen.max_id,
        tokens_beyond_vocabulary=seen.num_beyond,
        ended_documents=ended,
        inner_ends=num_inner_ends,
        begun_documents=begun,
        inner_begins=num_inner_begins,
        unknown_tokens=seen.num_unknown,
        text_characters=characters,
        broken_characters=broken,
        has_provenance=has_provenance,
        problems=tuple(problems),
    )


def _check_provenance(part: Part) -> tuple[bool, list[str]]:
    """Return whether it is recorded where the documents of a part came from, and what is wrong with the record."""
    try:
        opened = provenance_of(part)
        if opened is None:
            return False, []
        with opened:
            opened.require_whole()
            for _ in opened.entries():
                pass
    except DataError as error:
        return True, [str(error)]
    except OSError as error:
        return True, [
            f"{part.provenance_path}: cannot be read ({error.strerror or error}). Copy it again, or remove it."
        ]
    return True, []


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Findings of one pass over the tokens."""

    xxh3: str
    max_id: int
    num_beyond: int
    num_ends: int
    num_begins: int
    num_unknown: int


def _read_through(tokens: NDArray[np.integer], expected: Expectation) -> _Seen:
    digest = xxhash.xxh3_64()
    max_id, num_beyond = -1, 0
    symbols = (expected.end_id, expected.begin_id, expected.unknown_id)
    counts = [0, 0, 0]
    for begin in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[begin : begin + TOKENS_AT_ONCE]
        digest.update(piece.data.cast("B"))
        max_id = max(max_id, int(piece.max()))
        if expected.vocab_size is not None and (max_id >= expected.vocab_size or piece.min() < 0):
            num_beyond += int(((piece >= expected.vocab_size) | (piece < 0)).sum())
        for number, symbol in enumerate(symbols):
            if symbol is not None:
                counts[number] += int((piece == symbol).sum())
    ends, begins, unknown = counts
    return _Seen(
        xxh3=digest.hexdigest(),
        max_id=max_id,
        num_beyond=num_beyond,
        num_ends=ends,
        num_begins=begins,
        num_unknown=unknown,
    )


def _count_at_border(opened: OpenPart, symbol: int | None, *, is_last: bool) -> int:
    """Return how many documents have the symbol as their last token, or as their first."""
    if symbol is None:
        return 0
    lengths = opened.table.lengths
    first = opened.table.byte_offsets // opened.header.token_type.num_bytes
    place = (first + lengths - 1 if is_last else first)[lengths > 0]
    return int((opened.tokens[place] == symbol).sum())


def _count_alone(opened: OpenPart, symbol: int) -> int:
    """Return how many documents are this token and nothing else: both their first and their last."""
    place = (opened.table.byte_offsets // opened.header.token_type.num_bytes)[opened.table.lengths == 1]
    return int((opened.tokens[place] == symbol).sum())


def read_as_text(opened: OpenPart, pieces: Sequence[Piece]) -> tuple[int, int]:
    """Return the characters of documents from all over a part, and how many of them are broken: bytes are missing."""
    characters = broken = 0
    count = opened.part.num_documents
    for number in sorted({place * count // DOCUMENTS_READ for place in range(min(count, DOCUMENTS_READ))}):
        ids = opened.document(number)[:TOKENS_READ]
        known = [pieces[token] for token in ids.tolist() if 0 <= token < len(pieces)]
        content = b"".join(piece.content for piece in known if not piece.is_control)
        text = content.decode("utf-8", "replace")
        characters += len(text)
        # The text itself may have this character; then it has its bytes, too.
        broken += text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
    return characters, broken
