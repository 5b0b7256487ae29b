"""Writes the parts of a channel: tokens to a `.bin`, places of documents to an `.idx`, a line to `parts.jsonl`.

The pair of files is Megatron's indexed dataset, version 1, little endian throughout:

    part-00000.bin   the token ids of all documents, back to back, each as uint16 or int32
    part-00000.idx   as `harness.channels.index_file` describes it, with one sequence for each document
    part-00000.provenance   where each document came from (`harness.channels.provenance`), if that is known of any
    parts.jsonl      one line per finished part, appended when both files are whole and on disk; its format is that of
                     `harness.channels.channels`, which reads it

A part without its line does not exist: files under its name are replaced. Memory is bounded by 4 bytes per
document of the part (32 while the index is written).
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_prep.text.provenance_writer import ProvenanceWriter
from harness.channels.channels import PARTS_FILE, listed_parts
from harness.channels.index_file import index_header
from harness.channels.parts import beside
from harness.channels.provenance import ENDING, Provenance
from harness.errors import DataError
from harness.run.files import STAGING_SUFFIX, append_durably, replacing, require_own

MAX_UINT16_VOCABULARY = 65_536
MAX_ID = {"uint16": 2**16 - 1, "int32": 2**31 - 1}


@dataclass(frozen=True)
class FinishedPart:
    """One line of `parts.jsonl`."""

    prefix: str
    """File name without `.bin` or `.idx`."""
    tokens: int
    documents: int
    bin_bytes: int
    xxh3: str


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """Return the smallest number format that holds every id of a vocabulary."""
    return np.dtype("uint16" if vocab_size <= MAX_UINT16_VOCABULARY else "int32").newbyteorder("<")


def part_prefix(number: int) -> str:
    """Name of the channel's part with this number, counted from 0."""
    return f"part-{number:05d}"


def read_finished_parts(folder: Path) -> list[FinishedPart]:
    """Return the parts whose line in the folder's `parts.jsonl` is complete, in order; a torn last line does not count.

    Raises:
        DataError: A line is unreadable, or a part's `.bin` does not have the size that its line says.
        OSError: From the disk.
    """
    file = folder / PARTS_FILE
    if not file.exists():
        return []
    parts = []
    for number, listed in enumerate(listed_parts(file), start=1):
        part = FinishedPart(
            prefix=listed.name,
            tokens=listed.num_tokens,
            documents=listed.num_documents,
            bin_bytes=listed.bin_bytes,
            xxh3=str(listed.xxh3),
        )
        binary = folder / f"{part.prefix}.bin"
        size = binary.stat().st_size if binary.exists() else None
        if size != part.bin_bytes or not binary.with_suffix(".idx").exists():
            raise DataError(
                f"{file}:{number}: {binary.name} should be there with {part.bin_bytes} bytes and its .idx, "
                f"but {'is missing' if size is None else f'has {size} bytes, or no .idx'}. "
                "Restore the files, or delete the channel folder and prepare it again."
            )
        parts.append(part)
    return parts


def require_parts(folder: Path, num_parts: int, num_tokens: int) -> None:
    """Check that the parts on disk are those that were written, before or after a channel is called finished.

    Raises:
        DataError: They are others.
        OSError: From the disk.
    """
    parts = read_finished_parts(folder)
    found = (len(parts), sum(part.tokens for part in parts))
    if found != (num_parts, num_tokens):
        raise DataError(
            f"{folder}: {found[0]:,} parts with {found[1]:,} tokens are there, and {num_parts:,} with {num_tokens:,} "
            "were written: something was removed or replaced. Restore it, or delete the folder and run the command "
            "again."
        )


class PartWriter:
    """Writes one part document by document; the part exists only after `finish`."""

    def __init__(self, folder: Path, number: int, dtype: np.dtype[np.generic], *, has_provenance: bool = False) -> None:
        self.num_tokens = 0
        self._folder = folder
        self._prefix = part_prefix(number)
        self._dtype = dtype
        self._lengths = array("i")
        self._hash = xxhash.xxh3_64()
        self._partial = folder / f"{self._prefix}.bin{STAGING_SUFFIX}"
        self._partial.unlink(missing_ok=True)  # of a killed call, or a link
        self._binary = self._partial.open("xb", buffering=1 << 20)
        self._own = os.fstat(self._binary.fileno())
        provenance = beside(folder / self._prefix, ENDING)
        provenance.unlink(missing_ok=True)  # of a killed call
        self._provenance = ProvenanceWriter(provenance) if has_provenance else None

    def add_document(self, ids: Sequence[int]) -> None:
        """Append one document; every id must be within the vocabulary that the dtype was chosen for."""
        self.add_documents(np.asarray(ids, dtype=np.int64), np.array([len(ids)]))

    def add_documents(self, ids: NDArray[np.integer], lengths: NDArray[np.int64]) -> None:
        """Append documents whose ids lie back to back; `lengths` are the tokens of each."""
        if ids.size and int(ids.max()) > MAX_ID[self._dtype.name]:
            raise OverflowError(f"id {int(ids.max())} does not fit {self._dtype.name}")
        content = ids.astype(self._dtype).data.cast("B")
        self._hash.update(content)
        self._binary.write(content)
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self.num_tokens += len(ids)

    def add_provenance(self, entries: Iterable[Provenance]) -> None:
        """Say where the documents came from that were appended since the last call, one entry for each."""
        if self._provenance is not None:
            for entry in entries:
                self._provenance.add(entry)

    def finish(self) -> FinishedPart:
        """Put the files on disk under their names, then the part's line into `parts.jsonl`."""
        part = FinishedPart(
            prefix=self._prefix,
            tokens=self.num_tokens,
            documents=len(self._lengths),
            bin_bytes=self.num_tokens * self._dtype.itemsize,
            xxh3=self._hash.hexdigest(),
        )
        self._binary.flush()
        os.fsync(self._binary.fileno())
        self._binary.close()
        require_own(self._partial, self._own)
        self._partial.replace(self._folder / f"{self._prefix}.bin")
        self._write_index()
        if self._provenance is not None:
            self._provenance.finish(self._hash.intdigest())
        append_durably(self._folder / PARTS_FILE, [json.dumps(asdict(part))])
        return part

    def close(self) -> None:
        """Abandon an unfinished part, for example after an error, and remove its files: the disk may be full."""
        if self._provenance is not None:
            self._provenance.close()
        with suppress(OSError):
            require_own(self._partial, self._own)
            self._partial.unlink()
        with suppress(OSError):  # which writes what is left
            self._binary.close()

    def _write_index(self) -> None:
        lengths = np.array(self._lengths, dtype=np.int32)
        offsets = (np.cumsum(lengths, dtype=np.int64) - lengths) * self._dtype.itemsize
        with replacing(self._folder / f"{self._prefix}.idx") as index:  # which syncs the folder, too
            index.write(index_header(self._dtype.name, len(lengths)))
            index.write(lengths.astype("<i4").tobytes())
            index.write(offsets.astype("<i8").tobytes())
            index.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
