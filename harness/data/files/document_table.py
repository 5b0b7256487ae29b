"""The documents of a part: where each lies in the `.bin`, checked against the size of the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.channels.index_file import HEADER_BYTES, IndexHeader, borders_problem
from harness.errors import DataError

_BLOCK = 1 << 20


class DocumentSpan(NamedTuple):
    """`num_tokens` tokens of a document from `first_token` on; documents are numbered within their part."""

    document: int
    first_token: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentTable:
    """Lengths and places of the documents of one part. The arrays may be views of the mapped `.idx` file."""

    lengths: npt.NDArray[np.integer]
    """Tokens of each document, [D]."""
    byte_offsets: npt.NDArray[np.int64]
    """First byte of each document in the `.bin`, [D]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexArrays:
    """The three arrays of an `.idx` file, as they stand in it."""

    sequence_lengths: npt.NDArray[np.int32]
    sequence_pointers: npt.NDArray[np.int64]
    document_indices: npt.NDArray[np.int64]


def read_arrays(idx_path: Path, header: IndexHeader) -> IndexArrays:
    """Map the arrays of an index whose header has been read.

    Raises:
        DataError: The file cannot be mapped.
    """
    try:
        content = np.memmap(idx_path, dtype=np.uint8, mode="r", offset=0)
    except OSError as error:
        raise DataError(f"cannot map {idx_path}: {error.strerror or error}. Try again.") from error
    ends = np.cumsum([HEADER_BYTES, 4 * header.num_sequences, 8 * header.num_sequences, 8 * header.num_indices])
    lengths, pointers, borders = (content[begin:end] for begin, end in zip(ends[:-1], ends[1:], strict=True))
    return IndexArrays(
        sequence_lengths=lengths.view("<i4"),
        sequence_pointers=pointers.view("<i8"),
        document_indices=borders.view("<i8"),
    )


def document_table(
    idx_path: Path, arrays: IndexArrays, token_bytes: int, bin_bytes: int, *, is_one_each: bool = True
) -> DocumentTable:
    """Check the arrays of an index against its `.bin` and find the documents.

    With `is_one_each`, as many documents as sequences means that each is one. Megatron-LM's own builder keeps no such
    promise.

    Raises:
        DataError: A length is negative, a pointer is not where the lengths before it end, the sequences do not fill the
            `.bin`, the document borders do not rise from 0 to the number of sequences, or some documents have no
            sequence where each is one.
    """
    _check_sequences(idx_path, arrays, token_bytes, bin_bytes)
    borders = arrays.document_indices
    num_sequences = len(arrays.sequence_lengths)
    if len(borders) == 0 or borders[0] != 0 or borders[-1] != num_sequences:
        raise borders_problem(idx_path, num_sequences, f"{len(borders)} from {borders[:1]} to {borders[-1:]}")
    if len(falling := np.flatnonzero(borders[1:] < borders[:-1])):
        place = int(falling[0])
        raise borders_problem(idx_path, num_sequences, f"{borders[place + 1]} follows {borders[place]}")
    if len(borders) == num_sequences + 1 and is_one_each:
        _check_one_each(idx_path, borders)
    if len(borders) == num_sequences + 1 and not np.any(borders[1:] == borders[:-1]):
        return DocumentTable(lengths=arrays.sequence_lengths, byte_offsets=arrays.sequence_pointers)
    byte_borders = np.append(arrays.sequence_pointers, bin_bytes)[borders]
    return DocumentTable(lengths=np.diff(byte_borders) // token_bytes, byte_offsets=byte_borders[:-1])


def _check_one_each(idx_path: Path, borders: npt.NDArray[np.int64]) -> None:
    """Check that every document is one sequence, given that there are equally many of both.

    Otherwise some documents would have none and others two, which no other check would show: one flipped bit is enough.
    """
    for begin in range(0, len(borders), _BLOCK):
        piece = borders[begin : begin + _BLOCK]
        if not np.array_equal(piece, np.arange(begin, begin + len(piece))):
            raise DataError(
                f"{idx_path} is damaged: it has as many documents as sequences, but some documents have none or two. "
                "Make the part again."
            )


def _check_sequences(idx_path: Path, arrays: IndexArrays, token_bytes: int, bin_bytes: int) -> None:
    """Check that the sequences follow each other and fill the `.bin`.

    Done in blocks, so that a part of many documents needs no second copy of its index.
    """
    end = 0
    for start in range(0, len(arrays.sequence_lengths), _BLOCK):
        lengths = arrays.sequence_lengths[start : start + _BLOCK]
        pointers = arrays.sequence_pointers[start : start + _BLOCK]
        if lengths.min() < 0:
            found = int(np.argmax(lengths < 0))
            raise DataError(
                f"{idx_path} is damaged: sequence {start + found} has length {lengths[found]}. Make the part again."
            )
        ends = end + np.cumsum(lengths, dtype=np.int64) * token_bytes
        expected = ends - lengths.astype(np.int64) * token_bytes
        if not np.array_equal(pointers, expected):
            found = int(np.argmax(pointers != expected))
            raise DataError(
                f"{idx_path} is damaged: sequence {start + found} begins at byte {pointers[found]}, "
                f"but the sequences before it end at byte {expected[found]}. Make the part again."
            )
        end = int(ends[-1])
    if end != bin_bytes:
        raise DataError(
            f"{idx_path.with_suffix('.bin')} is not what its index says: the sequences in {idx_path.name} "
            f"make {end} bytes, the file has {bin_bytes}. Copy or make the part again."
        )
