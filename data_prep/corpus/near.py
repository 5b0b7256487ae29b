"""Near copies by datatrove's MinHash stages, with signatures by rensa and the first document of each group kept.

Shingles are five words or Chinese characters in a row. Each document has `b` bands of `r` minima. Two documents
meet if one band is equal, which for a Jaccard similarity s has the probability 1 - (1 - s^r)^b (Leskovec,
Rajaraman, Ullman, *Mining of Massive Datasets*, ch. 3).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from numpy.typing import NDArray

from data_prep.corpus.words import Words
from data_prep.text.shingles import shingles_in_order
from harness.errors import UsageError

NUM_MINIMA = 128
SEED = 42


@dataclass(frozen=True)
class Bands:
    """Number of bands that the minima are cut into, and the minima in each."""

    count: int
    rows: int

    @property
    def config(self) -> MinhashConfig:
        """The same for datatrove."""
        # 32 bits are what rensa's minima have; sha1 is not used, but needs no package.
        hashes = HashConfig(precision=32, hash_fc="sha1")
        return MinhashConfig(num_buckets=self.count, hashes_per_bucket=self.rows, hash_config=hashes)


def choose_bands(threshold: float) -> Bands:
    """Return the bands that find half of the pairs at the threshold, as nearly as whole numbers allow."""
    options = [Bands(NUM_MINIMA // rows, rows) for rows in range(1, NUM_MINIMA // 2)]
    return min(options, key=lambda bands: abs((1 - 0.5 ** (1 / bands.count)) ** (1 / bands.rows) - threshold))


def minima(text: str) -> NDArray[np.uint32]:
    """Return the smallest hashes of a text's shingles, [NUM_MINIMA]. A text without words is similar only to itself."""
    # Repeated ones do not change the smallest.
    found = shingles_in_order(text)
    if not len(found):
        found = np.array([xxhash.xxh3_64_intdigest(text.encode())], dtype=np.uint64)
    borders = np.array([0, len(found)], dtype=np.uint64)
    matrix = _rensa().RMinHash.digest_matrix_from_flat_token_hashes(found, borders, NUM_MINIMA, SEED)
    return np.array(matrix.to_rows()[0], dtype=np.uint32)


class FastSignature(MinhashDedupSignature):  # type: ignore[misc] # datatrove has no types
    """datatrove's first stage, with minima from rensa: the files are the same, only faster to make."""

    name = "minima by rensa"

    def __init__(self, output_folder: Path, bands: Bands) -> None:
        _rensa()
        super().__init__(str(output_folder), bands.config, Words())

    def get_shingles(self, text: str) -> NDArray[np.uint32]:
        """Return the minima themselves: datatrove only checks that there are any, and passes them on."""
        return minima(text)[: self.num_hashes]

    def get_signature(self, shingles: NDArray[np.uint32]) -> list[list[int]]:
        """Return the minima, cut into bands."""
        bands: list[list[int]] = shingles.reshape(self.config.num_buckets, -1).tolist()
        return bands


class FirstOfGroup(MinhashDedupCluster):  # type: ignore[misc]
    """datatrove's third stage, which keeps the first document of every group and not the one most others met."""

    name = "first of each group"

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """Read pairs of (task, document), write for every task the documents to leave out."""
        files = self.input_folder.list_files(glob_pattern="*.dups")
        found = [np.frombuffer(self.input_folder.open(file, "rb").read(), dtype="<u4") for file in files]
        # [pairs, 2, 2]: task and number of both documents of a pair, joined to one number for each document.
        pairs = np.concatenate(found or [np.zeros(0, dtype="<u4")]).reshape(-1, 2, 2).astype(np.uint64)
        documents, numbers = np.unique((pairs[..., 0] << np.uint64(32)) | pairs[..., 1], return_inverse=True)
        first = first_of_groups(len(documents), numbers.reshape(-1, 2))
        copies = documents[first != np.arange(len(documents))]
        tasks = copies >> np.uint64(32)
        for task in np.unique(tasks).tolist():
            content = (copies[tasks == task] & np.uint64(0xFFFFFFFF)).astype("<u4").tobytes()
            with self.output_folder.open(f"{task:06d}.remove", "wb") as out:
                out.write(content)
        self.stat_update("to_remove", value=len(copies))


def first_of_groups(count: int, pairs: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each item the smallest one that `pairs` [P, 2] connect it with, directly or not, [count]."""
    # Each item points to the smallest item known to be connected with it; pointers shorten until nothing changes.
    roots = np.arange(count)
    one, other = pairs[:, 0], pairs[:, 1]
    while True:
        smallest = np.minimum(roots[one], roots[other])
        joined = roots.copy()
        # Point the roots of both to the smaller one. The items below follow by looking up their root's root.
        for ends in (roots[one], roots[other]):
            np.minimum.at(joined, ends, smallest)
        joined = joined[joined]
        if np.array_equal(joined, roots):
            return roots
        roots = joined[joined]


def _rensa() -> Any:  # noqa: ANN401 - rensa has no types
    try:
        return importlib.import_module("rensa")
    except ImportError as error:
        raise UsageError(
            "--method minhash needs the Python package rensa, which is not installed. Install the project with its "
            "`data-clean` extra, or use --method exact."
        ) from error
