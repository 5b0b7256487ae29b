"""Reads every byte of a channel and reports its faults: structure, hashes, ids, and ends of documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from harness.channels.parts import Part
from harness.data.files.opened import OpenPart, open_part
from harness.errors import DataError

TOKENS_AT_ONCE = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Expected properties of the tokens; None is not checked."""

    vocab_size: int | None = None
    end_id: int | None = None


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
    """End-of-document tokens that are not the last of a document."""
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
    problems = []
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
    ended = 0 if expected.end_id is None else _count_ended(opened, expected.end_id)
    return PartReport(
        prefix=str(part.prefix),
        tokens=part.num_tokens,
        documents=part.num_documents,
        empty_documents=int((opened.table.lengths == 0).sum()),
        max_id=seen.max_id,
        tokens_beyond_vocabulary=seen.num_beyond,
        ended_documents=ended,
        inner_ends=seen.num_ends - ended,
        problems=tuple(problems),
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Findings of one pass over the tokens."""

    xxh3: str
    max_id: int
    num_beyond: int
    num_ends: int


def _read_through(tokens: NDArray[np.integer], expected: Expectation) -> _Seen:
    digest = xxhash.xxh3_64()
    max_id, num_beyond, num_ends = -1, 0, 0
    for begin in range(0, len(tokens), TOKENS_AT_ONCE):
        piece = tokens[begin : begin + TOKENS_AT_ONCE]
        digest.update(piece.data.cast("B"))
        max_id = max(max_id, int(piece.max()))
        if expected.vocab_size is not None and (max_id >= expected.vocab_size or piece.min() < 0):
            num_beyond += int(((piece >= expected.vocab_size) | (piece < 0)).sum())
        if expected.end_id is not None:
            num_ends += int((piece == expected.end_id).sum())
    return _Seen(xxh3=digest.hexdigest(), max_id=max_id, num_beyond=num_beyond, num_ends=num_ends)


def _count_ended(opened: OpenPart, end_id: int) -> int:
    lengths = opened.table.lengths
    first = opened.table.byte_offsets // opened.header.token_type.num_bytes
    last = (first + lengths - 1)[lengths > 0]
    return int((opened.tokens[last] == end_id).sum())
