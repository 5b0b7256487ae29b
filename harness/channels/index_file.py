r"""The header of an `.idx` file, which describes the `.bin` file beside it.

Layout, little-endian, without padding; S sequences, D documents (`IndexHeader.num_indices` is D + 1):

    offset  size       content
    0       9          magic `MMIDIDX\x00\x00`
    9       8          version, uint64: 1
    17      1          code of the token type, uint8 (see `TOKEN_TYPES`)
    18      8          S, uint64
    26      8          D + 1, uint64
    34      4 S        tokens of each sequence, int32
    34+4S   8 S        byte offset of each sequence in the `.bin`, int64
    34+12S  8 (D + 1)  number of the first sequence of each document, then S, int64

Megatron-LM and datatrove write one sequence for each document; a document of several sequences is allowed. The `.bin`
is the tokens of all sequences end to end, and nothing else. Megatron-LM's multimodal index has S more bytes, the mode
of each sequence (int8); its sequences are not text alone, and it is refused.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from harness.channels.regular_file import open_to_read
from harness.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
MOST_DOCUMENTS = 1 << 32
"""Documents and sequences of one part. The index of so many has 86 GB; larger counts are damage, and never read."""
_SEQUENCES_AT_ONCE = 1 << 20
_HEADER = struct.Struct("<9sQBQQ")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True)
class TokenType:
    """A number format for token ids. It holds ids below `num_ids`."""

    name: str
    num_bytes: int
    num_ids: int


TOKEN_TYPES = {
    1: TokenType("uint8", 1, 1 << 8),
    2: TokenType("int8", 1, 1 << 7),
    3: TokenType("int16", 2, 1 << 15),
    4: TokenType("int32", 4, 1 << 31),
    5: TokenType("int64", 8, 1 << 63),
    8: TokenType("uint16", 2, 1 << 16),
}
"""The type codes that can hold token ids; 6 and 7 are float64 and float32."""


@dataclass(frozen=True, kw_only=True)
class IndexHeader:
    """The first 34 bytes of an `.idx` file, and the end of the last sequence."""

    token_type: TokenType
    num_sequences: int
    num_indices: int
    """Document indices in the file: one more than there are documents."""
    bin_bytes: int = 0
    """Byte of the `.bin` at which the last sequence ends: the size that it should have."""

    @property
    def num_documents(self) -> int:
        """Documents in the part."""
        return self.num_indices - 1

    @property
    def file_bytes(self) -> int:
        """Size of the whole `.idx` file."""
        return HEADER_BYTES + 12 * self.num_sequences + 8 * self.num_indices


def index_header(token_type: str, num_documents: int) -> bytes:
    """Return the header of the index of a part in which every document is one sequence."""
    code = next(code for code, kind in TOKEN_TYPES.items() if kind.name == token_type)
    return _HEADER.pack(MAGIC, VERSION, code, num_documents, num_documents + 1)


def read_index_header(path: Path) -> IndexHeader:
    """Read the header of an `.idx` file; compare it with the size of the file, and with both ends of its borders.

    Reads 34 bytes and the ends of the three arrays, however long they are.

    Raises:
        DataError: The file is missing, no index, of another version or token type, has modes, its size is not what it
            says, or its document borders do not begin with 0 and end with the number of sequences.
    """
    try:
        with open_to_read(path) as file:
            header = _parse_header(path, file.read(_HEADER.size))
            _check_size(path, header, os.fstat(file.fileno()).st_size)
            return _with_ends(path, header, file)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}. Make the part again, or correct the path."
        ) from error


def document_lengths(path: Path, header: IndexHeader, first: int, behind: int) -> list[int]:
    """Return the tokens of the documents `first … behind - 1`, read from the index without the rest of it.

    Raises:
        DataError: The file cannot be read, or its borders do not rise.
    """
    try:
        with open_to_read(path) as file:
            borders = _array(file, "q", HEADER_BYTES + 12 * header.num_sequences + 8 * first, behind - first + 1)
            if list(borders) != sorted(borders) or not 0 <= borders[0] <= borders[-1] <= header.num_sequences:
                raise borders_problem(path, header.num_sequences, f"between {borders[0]} and {borders[-1]}")
            begins = _begins(file, header, borders)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}. Try again.") from error
    return [(end - begin) // header.token_type.num_bytes for begin, end in zip(begins[:-1], begins[1:], strict=True)]


def _begins(file: BinaryIO, header: IndexHeader, borders: array[int]) -> list[int]:
    """Return the byte of the `.bin` at which the sequences with these numbers begin; the end for the last number."""
    pointers = HEADER_BYTES + 4 * header.num_sequences
    first, count = borders[0], borders[-1] - borders[0]
    if count > _SEQUENCES_AT_ONCE:  # a document of very many sequences: only those at its ends are needed
        inside = (border for border in borders if border < header.num_sequences)
        found = {border: _number(file, pointers + 8 * border, "<q") for border in inside}
    else:
        found = dict(
            enumerate(_array(file, "q", pointers + 8 * first, min(count + 1, header.num_sequences - first)), first)
        )
    return [found.get(border, header.bin_bytes) for border in borders]


def borders_problem(path: Path, num_sequences: int, found: str) -> DataError:
    """Return the error for an index whose document borders are wrong. `found` says in which way."""
    return DataError(
        f"{path} is damaged: its document borders do not rise from 0 to its {num_sequences} sequences: {found}. "
        "Make the part again."
    )


def _parse_header(path: Path, head: bytes) -> IndexHeader:
    if len(head) < _HEADER.size:
        raise DataError(
            f"{path} is truncated: found {len(head)} bytes, its header alone has {_HEADER.size}. Make the part again."
        )
    magic, version, code, num_sequences, num_indices = _HEADER.unpack(head)
    if magic != MAGIC or version != VERSION:
        raise DataError(
            f"{path} is not an index of a .bin file: it begins with {magic!r}, version {version}; "
            f"expected {MAGIC!r}, version {VERSION}. Make the part again with `harness data tokenize`, "
            "Megatron-LM or datatrove."
        )
    if code not in TOKEN_TYPES:
        allowed = ", ".join(f"{known} ({kind.name})" for known, kind in TOKEN_TYPES.items())
        raise DataError(f"{path} has token type code {code}; allowed are {allowed}. Make the part again.")
    if num_indices == 0:
        raise DataError(
            f"{path} is damaged: its header says 0 document borders; there is at least 1. Make the part again."
        )
    return IndexHeader(token_type=TOKEN_TYPES[code], num_sequences=num_sequences, num_indices=num_indices)


def _check_size(path: Path, header: IndexHeader, found_bytes: int) -> None:
    if header.num_sequences and found_bytes == header.file_bytes + header.num_sequences:
        raise DataError(
            f"{path} has modes: behind its document borders there is one more byte for each of its "
            f"{header.num_sequences} sequences, as in Megatron-LM's multimodal data sets. harness trains on text, of "
            "which all sequences have one mode: make the part again without modes (in Megatron-LM: multimodal=False)."
        )
    if found_bytes != header.file_bytes:
        raise DataError(
            f"{path} is truncated or altered: its header says {header.num_sequences} sequences "
            f"and {header.num_documents} documents, which makes {header.file_bytes} bytes; "
            f"found {found_bytes}. Make the part again."
        )
    if max(header.num_sequences, header.num_documents) > MOST_DOCUMENTS:
        raise DataError(
            f"{path} is damaged: its header says {header.num_sequences} sequences and {header.num_documents} "
            f"documents; a part has at most {MOST_DOCUMENTS}. Make the part again."
        )


def _with_ends(path: Path, header: IndexHeader, file: BinaryIO) -> IndexHeader:
    """Return the header with the end of the last sequence, after a look at the first and the last document border."""
    count = header.num_sequences
    pointers, borders = HEADER_BYTES + 4 * count, HEADER_BYTES + 12 * count
    first, last = _number(file, borders, "<q"), _number(file, header.file_bytes - 8, "<q")
    if first != 0 or last != count:
        lacking = "; the last border, which is the number of sequences, is missing" if 0 < last < count else ""
        raise borders_problem(path, count, f"the first is {first}, the last is {last}{lacking}")
    if count == 0:
        return header
    length, begin = _number(file, pointers - 4, "<i"), _number(file, borders - 8, "<q")
    return replace(header, bin_bytes=begin + length * header.token_type.num_bytes)


def _array(file: BinaryIO, kind: str, offset: int, count: int) -> array[int]:
    """Return `count` little-endian numbers from an offset on."""
    found = array(kind)
    file.seek(offset)
    found.frombytes(file.read(count * found.itemsize))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _number(file: BinaryIO, offset: int, kind: str) -> int:
    file.seek(offset)
    (number,) = struct.unpack(kind, file.read(struct.calcsize(kind)))
    return int(number)
