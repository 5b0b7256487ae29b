"""The ledger of memory: what is allocated when, by whom, until when. Pure: knows keys and bytes, no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.trace.findings import Made, Part, Tensors

BLOCK_BYTES = 512
"""CUDA's caching allocator of torch gives multiples of this, and counts them as allocated."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The moment of a measurement at which most is allocated."""

    num_bytes: int
    held: tuple[Tensors, ...]
    """Tensors that are allocated then, most bytes first."""


@dataclass(frozen=True)
class _Block:
    made: Made
    num_bytes: int


class Ledger:
    """Records allocations and their ends, by the key of a storage."""

    def __init__(self) -> None:
        self._live: dict[int, _Block] = {}
        self._at_start: dict[int, _Block] = {}
        self._changes: list[tuple[int, _Block | None]] = []

    def add(self, key: int, num_bytes: int, made: Made) -> None:
        """Record that a storage was allocated. An empty one takes no memory."""
        if num_bytes:
            block = _Block(made, -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES)
            self._live[key] = block
            self._changes.append((key, block))

    def knows(self, key: int) -> bool:
        """Return whether a storage is recorded as allocated."""
        return key in self._live

    def drop(self, key: int) -> None:
        """Record that a storage is gone."""
        if self._live.pop(key, None) is not None:
            self._changes.append((key, None))

    def keys(self) -> set[int]:
        """Return the keys of all that is allocated."""
        return set(self._live)

    def assign(self, keys: Iterable[int], part: Part) -> None:
        """Say what storages that are allocated are for."""
        for key in keys:
            if (block := self._live.get(key)) is not None:
                self._live[key] = _Block(replace(block.made, part=part), block.num_bytes)

    def begin(self) -> None:
        """Begin the measurement: what is allocated now belongs to it, what was before does not."""
        self._at_start = dict(self._live)
        self._changes = []

    def peak(self) -> Peak:
        """Return the peak since `begin`: the first moment at which most is allocated."""
        now = most = sum(block.num_bytes for block in self._at_start.values())
        at_peak = 0
        live = dict(self._at_start)
        for number, (key, block) in enumerate(self._changes, start=1):
            now += block.num_bytes if block else -live[key].num_bytes
            _apply(live, key, block)
            if now > most:
                most, at_peak = now, number
        live = dict(self._at_start)
        for key, block in self._changes[:at_peak]:
            _apply(live, key, block)
        return Peak(num_bytes=most, held=_by_kind(live.values()))

    def made(self) -> tuple[Tensors, ...]:
        """Return everything that was allocated since `begin`, most bytes first."""
        return _by_kind(block for _, block in self._changes if block)


def _apply(live: dict[int, _Block], key: int, block: _Block | None) -> None:
    if block:
        live[key] = block
    else:
        del live[key]


def _by_kind(blocks: Iterable[_Block]) -> tuple[Tensors, ...]:
    sums: dict[Made, tuple[int, int]] = {}
    for block in blocks:
        count, num_bytes = sums.get(block.made, (0, 0))
        sums[block.made] = (count + 1, num_bytes + block.num_bytes)
    tensors = [Tensors(made=made, count=count, num_bytes=num_bytes) for made, (count, num_bytes) in sums.items()]
    return tuple(sorted(tensors, key=lambda each: -each.num_bytes))
