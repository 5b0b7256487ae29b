"""Compares the tensors of two checkpoints chunk by chunk, so that any size fits in memory and layouts may differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from checkpoint_tools.torch_dist import read_index, read_region
from harness.progress import Progress
from harness.run.checkpoints.stored_index import BYTES_OF, Chunk, StoredTensor

NUM_WORKERS = 2
Verdict = Literal["equal", "different", "only in first", "only in second", "other shape", "other format"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One tensor in two checkpoints. `equal` means every bit."""

    name: str
    verdict: Verdict
    largest: float | None = None
    """Largest absolute difference; NaN where only one of two numbers is NaN. None where there is nothing to compare."""
    mean: float | None = None
    """Mean absolute difference over all numbers."""
    detail: str = ""
    """Shapes or number formats, where they differ."""


@dataclass(frozen=True, kw_only=True)
class _Sum:
    is_equal: bool
    largest: float
    total: float


def compare(first: Path, second: Path, progress: Progress) -> Iterator[Difference]:
    """Compare two checkpoints whose small files have been verified: every tensor of either, by name.

    Holds one chunk of each per worker in memory. `progress` hears of the bytes of the first that were compared.

    Raises:
        CheckpointError: An index or a chunk is damaged.
    """
    one, other = read_index(first), read_index(second)
    names = sorted({*one, *other})
    with ThreadPoolExecutor(max_workers=NUM_WORKERS) as pool:
        for name, found in zip(names, pool.map(partial(_compare, first, second, one, other), names), strict=True):
            if name in one:
                progress(num_bytes(one[name]))
            yield found


def num_bytes(tensor: StoredTensor) -> int:
    """Return the size of a tensor as stored."""
    return math.prod(tensor.shape) * BYTES_OF[tensor.dtype]


def _compare(
    first: Path, second: Path, one: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], name: str
) -> Difference:
    if name not in one or name not in other:
        return Difference(name=name, verdict="only in first" if name in one else "only in second")
    a, b = one[name], other[name]
    if a.shape != b.shape:
        return Difference(name=name, verdict="other shape", detail=f"{list(a.shape)} and {list(b.shape)}")
    found = [_compare_region(first, second, a, b, chunk) for chunk in a.chunks]
    largest = max((part.largest for part in found), key=lambda value: (math.isnan(value), value), default=0.0)
    mean = math.fsum(part.total for part in found) / max(1, math.prod(a.shape))
    if a.dtype != b.dtype:
        detail = f"{a.dtype} and {b.dtype}"
        return Difference(name=name, verdict="other format", largest=largest, mean=mean, detail=detail)
    verdict: Verdict = "equal" if all(part.is_equal for part in found) else "different"
    return Difference(name=name, verdict=verdict, largest=largest, mean=mean)


def _compare_region(first: Path, second: Path, a: StoredTensor, b: StoredTensor, chunk: Chunk) -> _Sum:
    one = read_region(first, a, chunk.offsets, chunk.sizes)
    other = read_region(second, b, chunk.offsets, chunk.sizes)
    if one.dtype == other.dtype and torch.equal(_bits(one), _bits(other)):
        return _Sum(is_equal=True, largest=0.0, total=0.0)
    distance = (one.double() - other.double()).abs()
    both_nan, same = one.isnan() & other.isnan(), one == other  # equal infinities have no difference
    distance = distance.masked_fill(both_nan | same, 0.0)
    return _Sum(is_equal=False, largest=float(distance.max()), total=float(distance.sum()))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
