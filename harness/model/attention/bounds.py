"""Documents of a micro-batch, and what a rank that shares samples with others has of them.

Such a rank holds two slices of every sample (see `harness.model.context`), so its queries are two stretches, and each
looks at the beginnings of its documents too, which other ranks hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

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


class Piece(NamedTuple):
    """Part of a document, or of a sample, in a stretch: its queries, and all keys up to the last of them."""

    num_queries: int
    num_keys: int


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Queries in one slice of every sample of a micro-batch."""

    rows: slice
    """Its tokens among those of this rank."""
    keys_by_sample: tuple[slice, ...]
    """Tokens of each sample that any of its queries may look at."""
    pieces_by_sample: tuple[tuple[Piece, ...], ...]
    """Those that make up queries and keys of each sample, in order."""
    sequences: Sequences
    """The same of all samples."""


@dataclass(frozen=True)
class Documents(Bounds):
    """The documents of a micro-batch, its samples one behind the other."""

    lengths: list[int]
    """Tokens of each: on the host, so that no layer waits for a GPU to tell them."""
    stretches: tuple[Stretch, ...] = ()
    """With context parallelism: the parts that this rank has."""


def documents_at(
    starts: torch.Tensor, device: torch.device | str = "cpu", stretches: tuple[Stretch, ...] = ()
) -> Documents:
    """Return the documents that begin at these places, `[documents + 1]` on the host, for computing on a device."""
    lengths: list[int] = starts.diff().tolist()
    return Documents(starts.to(device, non_blocking=True), max(lengths), lengths, stretches)


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
    size, num_samples = tokens.stop - tokens.start, borders[-1] // length
    pieces: list[list[Piece]] = [[] for _ in range(num_samples)]
    first_keys = [tokens.stop] * num_samples
    for start, end in pairwise(borders):
        sample, first = divmod(start, length)
        begin, stop = max(first, tokens.start), min(first + end - start, tokens.stop)
        if begin < stop:
            pieces[sample].append(Piece(num_queries=stop - begin, num_keys=stop - first))
            first_keys[sample] = min(first_keys[sample], first)
    of_all = [piece for of_sample in pieces for piece in of_sample]
    return Stretch(
        rows=slice(number * size, (number + 1) * size),
        keys_by_sample=tuple(slice(first, tokens.stop) for first in first_keys),
        pieces_by_sample=tuple(map(tuple, pieces)),
        sequences=Sequences(
            queries=_bounds([piece.num_queries for piece in of_all], device),
            keys=_bounds([piece.num_keys for piece in of_all], device),
        ),
    )


def _bounds(lengths: list[int], device: torch.device | str) -> Bounds:
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cpu")
    return Bounds(starts.to(device, non_blocking=True), max(lengths))
