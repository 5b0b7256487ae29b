"""Plans a conversion from shapes alone, before any tensor is read: the file of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from checkpoint_tools.families.family import Family, Move
from checkpoint_tools.safetensors_file import Entry
from harness.config.model import ModelConfig
from harness.errors import CheckpointError

Described = Callable[[str], tuple[tuple[int, ...], torch.dtype]]
"""Shape and number format of a source tensor."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A tensor of ours, and what is written out of it."""

    move: Move
    entries: tuple[Entry, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all that is written."""
        return sum(entry.num_bytes for entry in self.entries)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of the output."""

    name: str
    written: tuple[Written, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All tensors of the file, in order."""
        return tuple(entry for written in self.written for entry in written.entries)

    @property
    def num_bytes(self) -> int:
        """Size of all tensors of the file."""
        return sum(written.num_bytes for written in self.written)


def plan_shards(
    family: Family, model: ModelConfig, described: Described, dtype: torch.dtype | None, max_bytes: int
) -> tuple[Shard, ...]:
    """Return files of at most `max_bytes` (more only for a single larger tensor), tensors in the order of the layers.

    All are written in the format `dtype`; None keeps each tensor's own.
    """
    groups: list[list[Written]] = [[]]
    filled = 0
    for move in family.moves(model):
        written = _written(move, model, described, dtype)
        if groups[-1] and filled + written.num_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(written)
        filled += written.num_bytes
    return tuple(
        Shard(name=_name(number, len(groups)), written=tuple(group)) for number, group in enumerate(groups, start=1)
    )


def require_complete(have: Iterable[str], needed: Iterable[str], place: str) -> None:
    """Check that every tensor is used, and that every needed tensor is there.

    Raises:
        CheckpointError: Names the tensors on one side only.
    """
    have, needed = set(have), set(needed)
    problems = [f"{name} is missing" for name in sorted(needed - have)]
    problems += [f"{name} has no place in this model" for name in sorted(have - needed)]
    if problems:
        shown = [*problems[:10], *([f"{len(problems) - 10} more"] if len(problems) > 10 else [])]
        raise CheckpointError(f"{place} does not hold the tensors of its model:\n  " + "\n  ".join(shown))


def _written(move: Move, model: ModelConfig, described: Described, dtype: torch.dtype | None) -> Written:
    shape, own = described(move.ours)
    parts = move.fusion.split(torch.empty(shape, dtype=own, device="meta"), model)
    assert len(parts) == len(move.theirs), f"{move.ours} gives {len(parts)} tensors"
    entries = [
        Entry(name=name, shape=tuple(part.shape), dtype=dtype or own)
        for name, part in zip(move.theirs, parts, strict=True)
    ]
    return Written(move=move, entries=tuple(entries))


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
