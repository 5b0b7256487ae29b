"""Documents of a micro-batch, and what a rank that shares samples with others has of them.

Such a rank holds two slices of every sample (see `harness.model.context`), so its queries are two stretches, and each
looks at the beginnings of its documents too, which other ranks hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from harness.parallel.ranks import Place


@dataclass(frozen=True)
class Bounds:
    """Sequences that lie one behind the other in a tensor of all their tokens."""

    starts: torch.Tensor
    """Places where they begin, and the number of tokens at the end: `[sequences + 1]`, int32, on the device."""
    longest: int
    """Tokens of the longest."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of queries and keys. Where one has fewer queries than keys, the last of both are one token."""

    queries: Bounds
    keys: Bounds


@dataclass(frozen=True)
class Piece:
    """Part of a document, or of a sample, in a stretch: its queries, and all keys up to the last of them."""

    sample: int
    queries: slice
    """Rows of the stretch."""
    keys: slice
    """Tokens of the sample."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Queries in one slice of every sample of a micro-batch."""

    rows: slice
    """Its tokens among those of this rank."""
    keys_by_sample: tuple[slice, ...]
    """Tokens of each sample that any of its queries may look at."""
    pieces: tuple[Piece, ...]
    """In order: the first sample's, the second's, …"""
    sequences: Sequences
    """Those of the pieces, in order; their keys are those of `keys_by_sample`."""


@dataclass(frozen=True)
class Documents(Bounds):
    """The documents of a micro-batch, its samples one behind the other."""

    stretches: tuple[Stretch, ...] = ()
    """With context parallelism: the parts that this rank has."""


def stretches_of(
    length: int,
    batch: int,
    cp: Place,
    document_starts: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Stretch, Stretch]:
    """Return the two stretches of a rank.

    Args:
        length: Tokens of a sample.
        batch: Samples of the micro-batch.
        cp: The rank's place among those that share the samples.
        document_starts: Where documents begin among the tokens of all samples, one sample behind the other, and their
            number at the end; None where each sample is one.
        device: Where the bounds go.
    """
    borders = range(0, batch * length + 1, length) if document_starts is None else document_starts
    size = length // (2 * cp.size)
    first, second = (
        _stretch(slice(place * size, (place + 1) * size), number, length, borders, device)
        for number, place in enumerate((cp.rank, 2 * cp.size - 1 - cp.rank))
    )
    return first, second


def _stretch(tokens: slice, number: int, length: int, borders: Sequence[int], device: torch.device | str) -> Stretch:
    size = tokens.stop - tokens.start
    pieces = []
    for start, end in pairwise(borders):
        sample, first = divmod(start, length)
        stop = min(first + end - start, tokens.stop)
        begin = max(first, tokens.start)
        if begin < stop:
            queries = slice(begin - tokens.start, stop - tokens.start)
            pieces.append(Piece(sample, queries, slice(first, stop)))
    return Stretch(
        rows=slice(number * size, (number + 1) * size),
        keys_by_sample=tuple(
            slice(min(piece.keys.start for piece in pieces if piece.sample == sample), tokens.stop)
            for sample in range(borders[-1] // length)
        ),
        pieces=tuple(pieces),
        sequences=Sequences(
            queries=_bounds([piece.queries.stop - piece.queries.start for piece in pieces], device),
            keys=_bounds([piece.keys.stop - piece.keys.start for piece in pieces], device),
        ),
    )


def _bounds(lengths: list[int], device: torch.device | str) -> Bounds:
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cpu")
    return Bounds(starts.to(device, non_blocking=True), max(lengths))
