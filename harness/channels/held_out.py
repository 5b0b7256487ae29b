"""Documents that are held out of a channel for evaluation: the last ones of its first part, if it has no own set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil
from typing import Literal, NamedTuple

from harness.channels.parts import Part

HeldOutBy = Literal["documents", "tokens"]
"""Measure of the share: runs that began before there was a choice hold out documents, all others tokens."""
Lengths = Callable[[int, int], Sequence[int]]
"""Returns the tokens of the documents `first … behind - 1` of the part."""
_LEAST_TOKENS = 2
"""One to predict, and one to predict it from."""
_DOCUMENTS_AT_ONCE = 1024


class HeldOut(NamedTuple):
    """The last documents of a part."""

    num_documents: int
    num_tokens: int


NOTHING = HeldOut(0, 0)


def held_out_of(part: Part, share: float, by: HeldOutBy, lengths: Lengths) -> HeldOut:
    """Return the documents at the end of a part that are kept for evaluation.

    A share of the documents is rounded up. A share of the tokens is as many documents as fit into it, and at least so
    many that there is something to predict.
    """
    exact = Fraction(repr(share))
    if exact == 0:
        return NOTHING
    if by == "documents":
        count = ceil(exact * part.num_documents)
        return HeldOut(count, sum(map(int, lengths(part.num_documents - count, part.num_documents))))
    allowed = int(exact * part.num_tokens)
    count, total = 0, 0
    for behind in range(part.num_documents, 0, -_DOCUMENTS_AT_ONCE):
        for length in map(int, reversed(lengths(max(0, behind - _DOCUMENTS_AT_ONCE), behind))):
            if total >= _LEAST_TOKENS and total + length > allowed:
                return HeldOut(count, total)
            count, total = count + 1, total + length
    return HeldOut(count, total)
