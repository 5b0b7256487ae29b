"""A channel of very many parts without files, whose order is asked for and never read: what an adoption costs.

python -m benchmarks.many_parts --adoptions 4000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from harness.channels.channels import Channel, PartsDigest
from harness.channels.parts import Part
from harness.data.files.mcore import MappedPart
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import Recipe
from harness.data.order.samples import SampleOrder, open_turns
from harness.say import say

_TOKENS = 100_000
_BATCH = 64
_RECIPE = Recipe(
    seed=1,
    shares={"web": Fraction(1)},
    seq_length=1024,
    vocab_size=256,
    held_out_share=0.0,
    reset_at_document_borders=False,
)


class Growing:
    """A run's order to which one part after the other is adopted, with a step before each."""

    def __init__(self) -> None:
        """Begin with two parts."""
        parts = tuple(_part(number) for number in range(2))
        self._turns = open_turns([Channel(name="web", parts=parts)], _RECIPE, MappedPart)
        self._digest = PartsDigest().followed_by(parts)
        self.cursor = Cursor().adopt({"web": (2, self._digest.text)})
        self.order = SampleOrder(self._turns, _RECIPE, self.cursor.history)

    def step(self) -> None:
        """Do what a step asks of the order, but for reading."""
        positions, self.cursor = self.cursor.take(_BATCH, _RECIPE.seq_length)
        self.order.lacks_parts_of(positions)
        self.order.epochs(self.cursor.passed_ranges())
        assert self.order is self.order.under(self.cursor.history)

    def adopt(self) -> None:
        """Adopt one further part."""
        further = (_part(self._digest.num_parts),)
        self._digest = self._digest.followed_by(further)
        self.cursor = self.cursor.adopt({"web": (self._digest.num_parts, self._digest.text)})
        self._turns[0].extend(further)
        self.order = self.order.under(self.cursor.history)
        self.order.drawn(self.cursor.next_position + _BATCH)


def _part(number: int) -> Part:
    path = Path(f"part-{number:07d}")
    return Part(
        prefix=path,
        name=path.name,
        num_tokens=_TOKENS,
        num_documents=100,
        bin_bytes=2 * _TOKENS,
        xxh3=f"{number:016x}",
    )


def measured(num_adoptions: int) -> Iterator[dict[str, float]]:
    """Yield the milliseconds of an adoption and of a step, and the memory so far, at each tenth of the way."""
    growing = Growing()
    tracemalloc.start()
    every = max(1, num_adoptions // 10)
    began, stepping_s = time.perf_counter(), 0.0
    for number in range(1, num_adoptions + 1):
        growing.adopt()
        before = time.perf_counter()
        growing.step()
        stepping_s += time.perf_counter() - before
        if number % every == 0:
            adopting_s = time.perf_counter() - began - stepping_s
            yield {
                "adoptions": number,
                "ms_per_adoption": round(1000 * adopting_s / every, 3),
                "ms_per_step": round(1000 * stepping_s / every, 3),
                "MiB": round(tracemalloc.get_traced_memory()[0] / 2**20, 1),
            }
            began, stepping_s = time.perf_counter(), 0.0
    tracemalloc.stop()


def main() -> int:
    """Print one line of JSON for each tenth of the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adoptions", type=int, default=4000)
    for line in measured(parser.parse_args().adoptions):
        say(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
