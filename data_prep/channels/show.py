"""Finds documents of a channel by their number and turns them back into text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.channels.parts import Part
from harness.channels.provenance import Provenance
from harness.channels.provenance_of_parts import provenance_of_document
from harness.data.files.opened import open_part
from harness.errors import UsageError
from harness.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ShownDocument:
    """A document of a channel as a person reads it."""

    number: int
    """Counted from 0 over all parts of the channel."""
    part: str
    document: int
    """Counted from 0 within its part, as evidence and the order of data name it."""
    tokens: int
    provenance: Provenance
    """Its source file, line, and id or URL."""
    text: str
    ids: list[int]
    """The tokens that were decoded: all, or the first of them."""


def find_documents(
    parts: Sequence[Part],
    numbers: Sequence[int],
    tokenizer: Tokenizer,
    max_tokens: int | None = None,
    borders: tuple[int | None, int | None] = (None, None),
) -> Iterator[ShownDocument]:
    """Yield documents by number, in the order asked for.

    The symbols that the channel has before and behind documents are given as `borders`: they are not text, even where
    the tokenizer has them as text.

    Raises:
        UsageError: There is no document of that number.
        DataError: The files of a part do not fit each other.
    """
    total = sum(part.num_documents for part in parts)
    for number in numbers:
        if not 0 <= number < total:
            raise UsageError(
                f"there is no document {number}: the channel has {total:,}, numbered from 0 to {total - 1}."
            )
        inner = number
        for part in parts:
            if inner < part.num_documents:
                ids = open_part(part).document(inner)
                shown = [int(token) for token in ids[:max_tokens]]
                yield ShownDocument(
                    provenance=provenance_of_document(part, inner),
                    number=number,
                    part=part.name,
                    document=inner,
                    tokens=len(ids),
                    text=tokenizer.decode(_without(shown, borders, is_whole=len(shown) == len(ids))),
                    ids=shown,
                )
                break
            inner -= part.num_documents


def _without(ids: list[int], borders: tuple[int | None, int | None], *, is_whole: bool) -> list[int]:
    begin, end = borders
    first = 1 if ids[:1] == [begin] else 0
    last = len(ids) - 1 if is_whole and ids[first:][-1:] == [end] else len(ids)
    return ids[first:last]


def random_numbers(parts: Sequence[Part], count: int, seed: int) -> list[int]:
    """Return the numbers of random documents without repetition; equal seeds give equal numbers."""
    total = sum(part.num_documents for part in parts)
    return sorted(random.Random(seed).sample(range(total), min(count, total)))


def number_in_channel(parts: Sequence[Part], name: str, document: int) -> int:
    """Return the number in the channel of a document that is given by its number in a part.

    Raises:
        UsageError: There is no such part, or it has no such document.
    """
    before = 0
    for part in parts:
        if part.name == name:
            if document < part.num_documents:
                return before + document
            raise UsageError(f"{name} has {part.num_documents:,} documents, so there is no document {document} in it.")
        before += part.num_documents
    raise UsageError(f"there is no part {name}; the first is {parts[0].name}, the last {parts[-1].name}.")
