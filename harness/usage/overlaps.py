"""Which samples of a batch hold the same stretches of tokens as another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 16
"""Tokens in the stretches that are compared: by chance no two texts share so many."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""An odd number: the hash of a window is a polynomial in it, modulo 2**64."""


@dataclass(frozen=True)
class Overlap:
    """The sample that shares most with another one."""

    other: int
    """Its number."""
    share: float
    """Of the windows of this sample, from 0 to 1."""


def overlaps(samples: Sequence[npt.NDArray[np.int64]]) -> list[Overlap | None]:
    """For each sample the one that shares most windows with it; None where none does."""
    windows = [np.unique(_window_hashes(tokens)) for tokens in samples]
    owners = np.repeat(np.arange(len(samples)), [len(hashes) for hashes in windows])
    hashes = np.concatenate(windows) if windows else np.zeros(0, dtype=np.uint64)
    order = np.lexsort((owners, hashes))
    shared: dict[tuple[int, int], int] = {}
    borders = np.flatnonzero(np.diff(hashes[order])) + 1
    for group in np.split(owners[order], borders):
        if len(group) > 1:
            first, second = int(group[0]), int(group[1])
            pairs = [(int(owner), first) for owner in group[1:]] + [(first, second)]
            for pair in pairs:
                shared[pair] = shared.get(pair, 0) + 1
    found: list[Overlap | None] = [None] * len(samples)
    for (mine, other), count in shared.items():
        share = count / len(windows[mine])
        best = found[mine]
        if best is None or share > best.share:
            found[mine] = Overlap(other, share)
    return found


def _window_hashes(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A hash of every stretch of `WINDOW` tokens; of the whole where it is shorter."""
    width = min(WINDOW, len(tokens))
    powers = np.array([pow(int(_BASE), power, 1 << 64) for power in range(width)], dtype=np.uint64)
    stretches = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), width)
    mixed = stretches * stretches * np.uint64(0xD6E8FEB86659FD93) + stretches
    hashes: npt.NDArray[np.uint64] = (mixed * powers).sum(axis=1, dtype=np.uint64)
    return hashes
