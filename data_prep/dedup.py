"""Keeps one of every group of equal or nearly equal documents: the first in the order of the input.

Exact: equal texts. MinHash: documents whose shingles (five words or Chinese characters in a row) overlap. Of each
document 128 minima are taken, in `b` bands of `r`; two documents meet if one band is equal, which for a Jaccard
similarity s has the probability 1 - (1 - s^r)^b (Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, ch. 3). `b`
and `r` are chosen so that this is one half at the threshold. Memory: 8·b bytes a document.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.documents import read_records
from data_prep.input_files import InputFile, file_bytes
from data_prep.shingles import POWERS, mixed, shingles
from data_prep.source import sole_writer
from data_prep.text_files import FileReport, filter_file, output_names, record_finished
from harness.errors import UsageError

Method = Literal["exact", "minhash"]
NUM_MINIMA = 128
SEED = 42
BATCH_DOCUMENTS = 1024
EXACT_COPY = "exact duplicate"
NEAR_COPY = "near duplicate"


@dataclass(frozen=True, kw_only=True)
class DedupJob:
    """What to look through, and how alike documents may be."""

    inputs: Sequence[InputFile]
    folder: Path
    method: Method
    threshold: float = 0.8
    """Jaccard similarity of shingles at which half of the pairs are found."""
    text_key: str = "text"


@dataclass(frozen=True)
class Bands:
    """How the minima are cut."""

    count: int
    rows: int

    def probability(self, similarity: float) -> float:
        """That two documents of this similarity meet in a band."""
        return float(1 - (1 - similarity**self.rows) ** self.count)


def choose_bands(threshold: float) -> Bands:
    """Bands that find half of the pairs at the threshold, as nearly as whole numbers allow."""
    options = [Bands(NUM_MINIMA // rows, rows) for rows in range(1, NUM_MINIMA // 2)]
    return min(options, key=lambda bands: abs((1 - 0.5 ** (1 / bands.count)) ** (1 / bands.rows) - threshold))


def dedup_files(job: DedupJob, done: Callable[[int], None]) -> list[FileReport]:
    """Writes the files anew without the copies; `done` is called with the bytes of each file, in both passes.

    Raises:
        UsageError: the package rensa is missing, or the folder is used by another process or not empty.
        DataError: a file is damaged, or the disk is full.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(job.folder):
        if any(path.suffix != ".partial" and path.name != ".lock" for path in job.folder.iterdir()):
            raise UsageError(f"{job.folder} is not empty. It stays as it is: choose another --output, or delete it.")
        verdicts = iter(_find_copies(job, done))
        reports = []
        for file, name in zip(job.inputs, output_names(job.inputs), strict=True):
            reports.append(
                filter_file(file, job.folder / name, job.text_key, lambda texts: list(islice(verdicts, len(texts))))
            )
            done(file_bytes(file))
        record_finished(job.folder, reports)
    return reports


def _find_copies(job: DedupJob, done: Callable[[int], None]) -> list[str | None]:
    """For every document of the input, what it is a copy as; None for those to keep."""
    bands = choose_bands(job.threshold) if job.method == "minhash" else Bands(0, 1)
    exact: list[NDArray[np.uint64]] = []
    near: list[NDArray[np.uint64]] = []
    for file in job.inputs:
        for texts in _batches(file, job.text_key):
            exact.append(np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], dtype=np.uint64))
            if job.method == "minhash":
                near.append(band_hashes(texts, bands))
        done(file_bytes(file))
    if not exact:
        return []
    first_equal = first_of_each(np.concatenate(exact))
    first_alike = join(np.concatenate(near), first_equal) if near else first_equal
    return [
        None if alike == number else EXACT_COPY if equal != number else NEAR_COPY
        for number, (equal, alike) in enumerate(zip(first_equal.tolist(), first_alike.tolist(), strict=True))
    ]


def band_hashes(texts: Sequence[str], bands: Bands) -> NDArray[np.uint64]:
    """One number for each band of each text, [texts, bands]. Equal texts have equal numbers.

    Raises:
        UsageError: the package rensa is missing.
    """
    try:
        rensa = importlib.import_module("rensa")
    except ImportError as error:
        raise UsageError(
            "--method minhash needs the Python package rensa, which is not installed. Install the project with its "
            "`data-clean` extra, or use --method exact."
        ) from error
    sets = [shingles(text) for text in texts]
    # A text without any word is like nothing else but itself.
    sets = [
        found if len(found) else np.array([xxhash.xxh3_64_intdigest(text.encode())], dtype=np.uint64)
        for found, text in zip(sets, texts, strict=True)
    ]
    borders = np.cumsum([0, *map(len, sets)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), borders, NUM_MINIMA, SEED)
    minima = np.array(matrix.to_rows(), dtype=np.uint64)[:, : bands.count * bands.rows]
    weighted = mixed(minima.reshape(len(texts), bands.count, bands.rows)) * POWERS[: bands.rows]
    return mixed(weighted.sum(axis=2, dtype=np.uint64))


def first_of_each(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each document, the first one with the same hash, [documents]."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    result: NDArray[np.int64] = first[inverse]
    return result


def join(hashes: NDArray[np.uint64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Joins documents that share a number in any column; gives the first document of each group, [documents].

    Args:
        hashes: [documents, bands].
        groups: a document that each is known to belong to already, at or before it.
    """
    roots = groups.copy()
    columns = [first_of_each(column) for column in hashes.T]
    while True:
        before = roots.copy()
        for first in columns:
            # The smallest root of all that share a number becomes the root of all of them.
            smallest = np.full(len(roots), len(roots), dtype=np.int64)
            np.minimum.at(smallest, first, roots)
            roots = np.minimum(roots, smallest[first])
        roots = roots[roots]
        if np.array_equal(roots, before):
            return roots


def _batches(file: InputFile, text_key: str) -> Iterator[list[str]]:
    batch: list[str] = []
    for record in read_records(file, text_key):
        if isinstance(record.content, str):
            batch.append(record.content)
        if len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch
