"""A random text that a model can learn: every token is followed by one of a few, some more often than others.

Zeros or uniform noise will not do. Matrix products are measurably faster on zeros, and on noise no loss falls.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.channels.indexed_writer import PartWriter, token_dtype

_FOLLOWERS = 8
_CHAINS = 256
_JUMP = 0.1
"""Chance that the next token is any token, instead of one of those that follow."""


def write_channel(folder: Path, *, vocab_size: int, num_tokens: int, seed: int) -> Path:
    """Write a channel of one part with documents of 2,048 tokens, at least `num_tokens` in all.

    Tokens are drawn by Zipf's law (rank^-1), and so are the followers of each token, so that a loss falls at first
    by learning which tokens are frequent, then by learning what follows what.
    """
    random = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, vocab_size + 1)
    ends = np.cumsum(shares / shares.sum())
    followers = _draw(random, ends, (vocab_size, _FOLLOWERS))
    folder.mkdir(parents=True)
    writer = PartWriter(folder, 0, token_dtype(vocab_size))
    for _ in range(-(-num_tokens // (_CHAINS * 2048))):
        tokens = np.empty((_CHAINS, 2048), dtype=np.int64)
        tokens[:, 0] = _draw(random, ends, (_CHAINS,))
        for place in range(1, 2048):
            following = followers[tokens[:, place - 1], random.integers(0, _FOLLOWERS, _CHAINS)]
            jumps = random.random(_CHAINS) < _JUMP
            tokens[:, place] = np.where(jumps, _draw(random, ends, (_CHAINS,)), following)
        for document in tokens:
            writer.add_document(document)  # type: ignore[arg-type]
    writer.finish()
    return folder


def _draw(random: np.random.Generator, ends: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.minimum(np.searchsorted(ends, random.random(shape)), len(ends) - 1)
