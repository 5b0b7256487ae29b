"""Counts the use of parts and documents over ranges of positions, by arithmetic on the order of the samples.

A part is opened only to count its documents, and then only that part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.data.order.samples import SampleOrder

Range = tuple[int, int]


class PartTurn(NamedTuple):
    """The turn of one part of a channel, by names."""

    channel: str
    part: str
    epoch: int


@dataclass(frozen=True)
class Use:
    """An amount of samples and tokens."""

    samples: int = 0
    tokens: int = 0
    """Tokens that stood as input, labels not counted again."""

    def __add__(self, other: Use) -> Use:
        """Return the sum of both."""
        return Use(self.samples + other.samples, self.tokens + other.tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentUse:
    """Use of each document of a part, by its number in the part, [D]."""

    tokens: npt.NDArray[np.int64]
    """Tokens that stood as input."""
    lengths: npt.NDArray[np.int64]
    """Tokens of the document."""


def count_parts(order: SampleOrder, ranges: Iterable[Range]) -> dict[PartTurn, Use]:
    """Return the use of every turn in ranges of positions. A part is opened only if a quarantine requires it."""
    found: dict[PartTurn, Use] = {}
    for start, stop in ranges:
        for name, drawn in order.cut_ranges(start, stop):
            turn = PartTurn(name, drawn.part_name, drawn.cut.epoch)
            tokens = order.turns_of(name).num_inputs(drawn.cut, drawn.start, drawn.stop)
            found[turn] = found.get(turn, Use()) + Use(drawn.stop - drawn.start, tokens)
    return found


def count_documents(order: SampleOrder, ranges: Iterable[Range], channel: str, part: str) -> DocumentUse:
    """Count the tokens of each document of a part that lie in ranges of positions.

    Raises:
        DataError: The part is damaged, or the channel has none of that name.
    """
    turns = order.turns_of(channel)
    number = turns.number_of(part)
    lengths = turns.lengths_of(number, np.arange(turns.channel.parts[number].num_documents)).astype(np.int64)
    tokens = np.zeros(len(lengths), dtype=np.int64)
    for start, stop in ranges:
        for name, drawn in order.cut_ranges(start, stop):
            if (name, drawn.part_name) == (channel, part):
                documents, counts = turns.samples(drawn.cut).tokens_of_documents(drawn.start, drawn.stop)
                np.add.at(tokens, documents, counts)
    return DocumentUse(tokens=tokens, lengths=lengths)
