"""Finds samples of a batch that share runs of tokens with another sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 16
"""Length of the compared runs of tokens; no two texts share one by chance."""
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
    """Return for each sample the one that shares most windows with it; None where no sample does."""
    windows = [np.unique(_window_hashes(tokens)) for tokens in samples]  # of each sample its distinct hashes
    # All hashes in one row, each with its sample, sorted so that equal hashes of different samples are neighbours.
    owners = np.repeat(np.arange(len(samples)), [len(hashes) for hashes in windows])
    hashes = np.concatenate(windows) if windows else np.zeros(0, dtype=np.uint64)
    order = np.lexsort((owners, hashes))
    # For each pair of samples, the number of hashes that both have. A group is one hash and the samples that have it,
    # rising. Each is paired with the first, and the first with the second, so that n copies make n pairs.
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
    """Return a hash of every window of `WINDOW` tokens; of all tokens if there are fewer."""
    width = min(WINDOW, len(tokens))
    powers = np.array([pow(int(_BASE), power, 1 << 64) for power in range(width)], dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64) + np.uint64(1), width)
    mixed = windows * windows * np.uint64(0xD6E8FEB86659FD93) + windows  # [W, width], wraps around
    hashes: npt.NDArray[np.uint64] = (mixed * powers).sum(axis=1, dtype=np.uint64)
    return hashes
