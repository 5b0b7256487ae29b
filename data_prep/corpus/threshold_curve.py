"""Measures how much of a source is left at each similarity, and picks the threshold that leaves a wanted size.

A sample would not do: a tenth of the documents holds a hundredth of the pairs. So the minima of all documents are
written to disk once (512 bytes a document), and read band by band as each threshold would cut them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from data_prep.corpus.near import NUM_MINIMA, choose_bands, first_of_groups, minima
from data_prep.text.own_json import counts_of, fields_of, read_own
from data_prep.text.shingles import POWERS, mixed
from data_prep.text.text_files import unreadable
from harness.errors import UsageError
from harness.run.files import replace_file

THRESHOLDS = tuple(number / 100 for number in range(50, 100, 5))
CURVE_FILE = "curve.json"


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Documents and characters that are left of a source if copies of this similarity are dropped."""

    threshold: float
    documents: int
    characters: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Documents and characters that are left at each threshold."""

    characters: int
    """Of all documents."""
    points: tuple[CurvePoint, ...]
    """From the lowest threshold to the highest."""


class WriteMinima(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Writes minima and length of every document of a task: `NNNNN.minima` and `NNNNN.lengths`, raw numbers."""

    type = "DEDUP"
    name = "minima"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> None:
        """See datatrove's `PipelineStep`."""
        with ExitStack() as stack:
            smallest, lengths = (
                stack.enter_context((self.folder / f"{rank:05d}.{kind}").open("wb")) for kind in ("minima", "lengths")
            )
            for document in data:
                smallest.write(minima(document.text).astype("<u4").tobytes())
                lengths.write(np.array(len(document.text), dtype="<u8").tobytes())


class MeasureCurve(PipelineStep):  # type: ignore[misc]
    """Writes the curve of all documents."""

    type = "DEDUP"
    name = "similarity curve"

    def __init__(self, folder: Path, file: Path) -> None:
        super().__init__()
        self.folder = folder
        self.file = file

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> None:
        """See datatrove's `PipelineStep`."""
        files = sorted(self.folder.glob("*.minima"))
        tables = [_table(file) for file in files]
        lengths = np.concatenate([np.fromfile(file.with_suffix(".lengths"), dtype="<u8") for file in files])
        curve = measure(tables, lengths.astype(np.int64))
        replace_file(self.file, json.dumps(asdict(curve)).encode() + b"\n")


def measure(tables: Sequence[NDArray[np.uint32]], lengths: NDArray[np.int64]) -> Curve:
    """Measure what is left at each threshold of documents with these minima, [documents, NUM_MINIMA] in each table.

    `lengths` are the characters of all documents, [all documents].
    """
    points = []
    for threshold in THRESHOLDS:
        bands = choose_bands(threshold)
        pairs = [_pairs(tables, band * bands.rows, bands.rows) for band in range(bands.count)]
        kept = first_of_groups(len(lengths), np.concatenate(pairs)) == np.arange(len(lengths))
        points.append(CurvePoint(threshold=threshold, documents=int(kept.sum()), characters=int(lengths[kept].sum())))
    return Curve(characters=int(lengths.sum()), points=tuple(points))


def read_curve(file: Path) -> Curve:
    """Return the recorded curve.

    Raises:
        DataError: It is missing or unreadable.
    """
    try:
        content = fields_of(read_own(file))
        characters = counts_of({"characters": content["characters"]})["characters"]
        if not isinstance(content["points"], list):
            raise ValueError("points is not a list")
        return Curve(characters=characters, points=tuple(map(_point, content["points"])))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unreadable(file, error) from error


def _point(value: object) -> CurvePoint:
    fields = fields_of(value, "a point")
    threshold = fields.pop("threshold")
    if type(threshold) is not float or not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold!r:.60}, and not a number between 0 and 1")
    return CurvePoint(threshold=threshold, **counts_of(fields))


def wanted_characters(keep: str, total: int) -> int:
    """Return the characters meant by `60%` of a total, or by a number such as `500B`.

    Raises:
        UsageError: It is neither, or more than there is.
    """
    factors = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12, "%": total / 100}
    factor = factors.get(keep[-1:].upper(), 1)
    try:
        wanted = float(keep[:-1] if keep[-1:].upper() in factors else keep) * factor
    except ValueError:
        wanted = math.nan
    if not 0 < wanted <= total:
        raise UsageError(
            f"keep {keep!r} of {total:,} characters is not a size. Give a share such as 60%, or a number of characters "
            "such as 500B, of at most the whole."
        )
    return int(wanted)


def pick_threshold(curve: Curve, characters: int) -> float:
    """Return the highest threshold that leaves at most this many characters.

    Raises:
        UsageError: Every threshold leaves more.
    """
    fitting = [point.threshold for point in curve.points if point.characters <= characters]
    if not fitting:
        shown = ", ".join(f"{point.threshold:g}: {point.characters:,}" for point in curve.points)
        raise UsageError(
            f"no threshold leaves {characters:,} characters. What each leaves: {shown}. Keep more, or clean harder "
            "first: copies alone do not make up the rest."
        )
    return max(fitting)


def _pairs(tables: Sequence[NDArray[np.uint32]], begin: int, rows: int) -> NDArray[np.int64]:
    """Return the documents that agree in a band, each with the first of them, [pairs, 2]."""
    bands = [table[:, begin : begin + rows].astype(np.uint64) for table in tables]
    # One hash for a document's minima in the band, [documents].
    hashes = np.concatenate([mixed((mixed(band) * POWERS[:rows]).sum(axis=1, dtype=np.uint64)) for band in bands])
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    firsts = first[inverse]  # [documents], the first document with the same hash
    later = np.flatnonzero(firsts != np.arange(len(hashes)))
    return np.stack([firsts[later], later], axis=1)


def _table(file: Path) -> NDArray[np.uint32]:
    num_documents = file.stat().st_size // (4 * NUM_MINIMA)
    if not num_documents:
        return np.zeros((0, NUM_MINIMA), dtype=np.uint32)
    return np.memmap(file, dtype="<u4", mode="r", shape=(num_documents, NUM_MINIMA))
