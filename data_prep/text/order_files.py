"""Writes the documents of files in another order: by a score or label of each record, like ones together, or shuffled.

The text is read two to four times and never held as a whole: first what each document is sorted by (some bytes of
memory a document; by likeness a kilobyte of disk); then every line goes to the bucket of its new place; then each
bucket is put in order in memory.
"""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.text.input_file import InputFile
from data_prep.text.labels import NO_LABEL, label_of, value_under
from data_prep.text.origins import LineRecorder, Origins, as_data_error
from data_prep.text.read_documents import Record, Rejection, read_records
from data_prep.text.similar_order import DIMENSIONS, DocumentFrequencies, similar_order
from data_prep.text.text_files import written_whole
from data_prep.text.whole_json import BYTE_ORDER_MARK
from harness.channels.provenance import Provenance
from harness.errors import DataError

BUCKET_BYTES = 256 * 1024 * 1024
MAX_BUCKETS = 500
"""Files that are open at once."""
_HEAD = struct.Struct("<QQ")


@dataclass(frozen=True, kw_only=True)
class OrderJob:
    """Input, output and order of the documents."""

    files: Sequence[InputFile]
    folder: Path
    by: Literal["score", "label", "similar", "shuffle"]
    text_key: str = "text"
    score_key: str = "score"
    label_key: str = "topic"
    descending: bool = False
    seed: int = 0
    bytes_per_file: int = 1024**3
    """Plain bytes after which a new file is begun."""
    bucket_bytes: int = BUCKET_BYTES


@dataclass
class Ordered:
    """The result of ordering."""

    documents: int = 0
    characters: int = 0
    rejected: int = 0
    empty: int = 0
    """Blank lines, and documents without any text."""
    files: list[str] = field(default_factory=list)


def order_files(job: OrderJob) -> Ordered:
    """Write the documents as `00000.jsonl.gz`, `00001.jsonl.gz` …; lines that are not documents are left out.

    Raises:
        DataError: A file is damaged or cannot be written, or a record has no score.
    """
    result = Ordered()
    sizes, origins = array("q"), _Origins()
    with closing(Origins(job.files)) as recorded:
        for number, record in _numbered_records(job):
            if isinstance(record.content, Rejection):
                result.rejected += not record.content.is_empty
                result.empty += record.content.is_empty
            else:
                sizes.append(len(_line(record)))
                origins.add(recorded.of(number, record.line))
                result.documents += 1
                result.characters += len(record.content)
    with TemporaryDirectory(dir=job.folder, prefix=".buckets-") as folder:
        places = _places(job, len(sizes), Path(folder))
        buckets = _distribute(job, Path(folder), places, np.array(sizes, dtype=np.int64))
        _write(job, buckets, result, origins.in_order_of(places))
    return result


class _Origins:
    """The provenance of the documents, in the order of the input: 16 bytes for each."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._files, self._lines = array("q"), array("q")

    def add(self, origin: Provenance) -> None:
        self._files.append(self._names.setdefault(origin.file, len(self._names)))
        self._lines.append(origin.line)

    def in_order_of(self, places: NDArray[np.int64]) -> Iterator[Provenance]:
        """Yield them by the new places of the documents."""
        names = list(self._names)
        for document in np.argsort(places).tolist():
            yield Provenance(names[self._files[document]], self._lines[document])


def _places(job: OrderJob, count: int, folder: Path) -> NDArray[np.int64]:
    """Return the new place of each document, [documents]."""
    if job.by == "shuffle":
        order = np.random.default_rng(job.seed).permutation(count)
    elif job.by == "score":
        scores = np.fromiter((_score(record, job.score_key) for record in _documents(job)), np.float64, count)
        order = np.argsort(-scores if job.descending else scores, kind="stable")
    elif job.by == "label":
        order = np.argsort(_ranks_of_labels(job, count), kind="stable")
    else:
        order = _similar(job, count, folder / "vectors")
    places = np.empty(count, dtype=np.int64)
    places[order] = np.arange(count)
    return places


def _ranks_of_labels(job: OrderJob, count: int) -> NDArray[np.int64]:
    """Return the place of each document's label among all labels in the order of the alphabet, [documents]."""
    numbers: dict[str, int] = {}
    labels = (label_of(record, job.label_key) for record in _documents(job))
    found = np.fromiter((numbers.setdefault(label, len(numbers)) for label in labels), np.int64, count)
    # Documents without a label come last.
    ordered = sorted(numbers, key=lambda label: (label == NO_LABEL, label))
    ranks = np.zeros(len(numbers), dtype=np.int64)
    for rank, label in enumerate(ordered):
        ranks[numbers[label]] = rank
    return ranks[found]


def _similar(job: OrderJob, count: int, file: Path) -> NDArray[np.int64]:
    if not count:
        return np.zeros(0, dtype=np.int64)
    seen = DocumentFrequencies(_texts(job))
    # A place that the disk does not have, found out by writing to memory, ends the process (SIGBUS).
    with file.open("xb") as made:
        os.posix_fallocate(made.fileno(), 0, count * DIMENSIONS * np.dtype(np.float16).itemsize)
    vectors = np.memmap(file, dtype=np.float16, mode="r+", shape=(count, DIMENSIONS))
    for number, text in enumerate(_texts(job)):
        vectors[number] = seen.vector(text)
    return similar_order(vectors, job.seed)


def _distribute(job: OrderJob, folder: Path, places: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[Path]:
    """Write every line, with its place before it, to the bucket of its place."""
    by_place = np.empty_like(sizes)
    by_place[places] = sizes
    bucket_bytes = max(job.bucket_bytes, -(-int(sizes.sum()) // MAX_BUCKETS))
    bucket_of_place = (np.cumsum(by_place) - by_place) // bucket_bytes
    buckets = [folder / f"{number:05d}" for number in range(int(bucket_of_place[-1]) + 1)] if len(sizes) else []
    with ExitStack() as stack:
        streams = [stack.enter_context(bucket.open("wb")) for bucket in buckets]
        for record, place in zip(_documents(job), places.tolist(), strict=True):
            line = _line(record)
            stream = streams[int(bucket_of_place[place])]
            stream.write(_HEAD.pack(place, len(line)) + line)
    return buckets


def _write(job: OrderJob, buckets: Sequence[Path], result: Ordered, origins: Iterator[Provenance]) -> None:
    lines = _sorted_lines(buckets)
    line = next(lines, None)
    while line is not None:
        name = f"{len(result.files):05d}.jsonl.gz"
        output = job.folder / name
        with as_data_error(output), closing(LineRecorder(output)) as recorder:
            with written_whole(output) as stream:
                written = 0
                while line is not None and written < job.bytes_per_file:
                    written += stream.write(line)
                    recorder.add(next(origins))
                    line = next(lines, None)
            recorder.finish()
        result.files.append(name)


def _sorted_lines(buckets: Sequence[Path]) -> Iterator[bytes]:
    for bucket in buckets:
        with bucket.open("rb") as stream:
            entries = sorted(_entries(stream))
        bucket.unlink()
        yield from (line for _, line in entries)


def _entries(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    while head := stream.read(_HEAD.size):
        place, size = _HEAD.unpack(head)
        yield place, stream.read(size)


def _numbered_records(job: OrderJob) -> Iterator[tuple[int, Record]]:
    for number, file in enumerate(job.files):
        for record in read_records(file, job.text_key, whole_rows=True):
            yield number, record


def _records(job: OrderJob) -> Iterator[Record]:
    return (record for _, record in _numbered_records(job))


def _documents(job: OrderJob) -> Iterator[Record]:
    return (record for record in _records(job) if isinstance(record.content, str))


def _texts(job: OrderJob) -> Iterator[str]:
    return (record.content for record in _records(job) if isinstance(record.content, str))


def _line(record: Record) -> bytes:
    line = record.raw.removeprefix(BYTE_ORDER_MARK)
    return line if line.endswith(b"\n") else line + b"\n"


def _score(record: Record, key: str) -> float:
    value = value_under(record.raw, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(
            f"{record.file}: line {record.line} has no number under {key!r} (found {value!r}). Ordering by score needs "
            "one in every record: give the right --score-key, or drop such records first."
        )
    return float(value)
