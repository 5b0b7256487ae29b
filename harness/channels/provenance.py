r"""The provenance of documents: source file, line, and the record's id or URL, in a file beside a part or a text file.

`part-00007.provenance` has an entry for each document of the part, and `0.jsonl.gz.provenance` one for each line of
that file. Training never reads them. Layout, little-endian, without padding; D entries in blocks of 1,024:

    magic `HPROVEN1`
    every block, packed with zlib: the columns file, line, piece and bytes of the name, then the names end to end
    the names of the source files, with a NUL between two, packed with zlib
    the end of every block, uint64
    the tail, of uint64: D, owner, end of the blocks, bytes of the names packed and plain, XXH3 of all; then the magic

A column is int64; file and line are differences to the entry before, piece and bytes are not. Its lowest bytes come
first, then the next ones, and so on: nearly all of them are zero. File -1 is not known. The owner is the XXH3 of the
part's `.bin`, or the size of the text file: with another one the entries are not those of that file.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from harness.channels.index_file import MOST_DOCUMENTS
from harness.channels.regular_file import open_to_read
from harness.errors import DataError
from harness.text import one_line

ENDING = ".provenance"
MAGIC = b"HPROVEN1"
BLOCK_ENTRIES = 1024
MOST_NAME_BYTES = 1024
"""Bytes of an id or a URL; a longer one is cut."""
MOST_FILE_NAMES_BYTES = 1 << 26
"""Names of the source files of one part. Further files are not recorded."""
MOST_FILES = 1 << 20
"""Source files of one part."""
MOST_LINE = 2**53
MOST_PIECE = 2**31 - 1
UNKNOWN_FILE = -1
TAIL = struct.Struct("<6Q8s")
_COLUMNS = 4
_MOST_SHOWN = 300
"""Characters of a name, or of an id, that are shown."""
_HASHED_AT_ONCE = 1 << 20
_MOST_PACKING = 1 << 16
"""Bytes by which zlib may make a piece longer."""


class Provenance(NamedTuple):
    """The place that a document came from."""

    file: str
    """Path or address of the source file as it was named; empty where it is not known."""
    line: int
    """Line (or row) in it, from 1."""
    name: str = ""
    """The record's id or URL; empty if it has none."""
    piece: int = 0
    """Number of the piece, from 1, of a document that was split; 0 of a whole one."""

    def to_json(self) -> dict[str, object] | None:
        """Return it as plain values; None where it is not known."""
        return self._asdict() if self.file else None

    def in_words(self) -> str:
        """Return it in one line for people."""
        if not self.file:
            return NOT_RECORDED
        piece = f", piece {self.piece}" if self.piece else ""
        name = f"  {_shortened(self.name)}" if self.name else ""
        return f"{_shortened(self.file)}:{self.line}{piece}{name}"


NOT_RECORDED = "source not recorded"
UNKNOWN = Provenance("", 0)


class Tail(NamedTuple):
    """The numbers at the end of the file."""

    num_entries: int
    owner: int
    blocks_end: int
    names_packed: int
    names_plain: int
    xxh3: int
    magic: bytes


def beside_text(name: str) -> str:
    """Return the name of the file that says where the lines of a text file came from."""
    return name + ENDING


def pack_block(files: Sequence[int], lines: Sequence[int], pieces: Sequence[int], names: Sequence[bytes]) -> bytes:
    """Return a block of entries, packed. A line is up to `MOST_LINE`, a name has up to `MOST_NAME_BYTES`."""
    sizes = [len(name) for name in names]
    columns = (_differences(files), _differences(lines), pieces, sizes)
    return zlib.compress(b"".join(map(_planes, columns)) + b"".join(names), 9)


class _Block:
    """Entries that were read together."""

    def __init__(self, packed: bytes, count: int, files: Sequence[str]) -> None:
        """Unpack the entries.

        Raises:
            ValueError: It is not a block of so many entries.
            zlib.error: It is damaged.
        """
        plain = _unzipped(packed, count * (8 * _COLUMNS + MOST_NAME_BYTES))
        begin = 8 * _COLUMNS * count
        if len(plain) < begin:
            raise ValueError("a block is too short")
        columns = [_column(plain[8 * count * number : 8 * count * (number + 1)], count) for number in range(_COLUMNS)]
        self._file_names, self._plain = files, plain
        self._files, self._lines = list(accumulate(columns[0])), list(accumulate(columns[1]))
        self._pieces, sizes = columns[2], columns[3]
        _require(self._files, UNKNOWN_FILE, len(files) - 1, "a file")
        _require(self._lines, 0, MOST_LINE, "a line")
        _require(self._pieces, 0, MOST_PIECE, "a piece")
        _require(sizes, 0, MOST_NAME_BYTES, "the size of a name")
        self._borders = list(accumulate(sizes, initial=begin))
        if self._borders[-1] != len(plain):
            raise ValueError("the names of a block are not as long as it says")

    def entry(self, number: int) -> Provenance:
        """Return one of them."""
        if self._files[number] == UNKNOWN_FILE:
            return UNKNOWN
        name = self._plain[self._borders[number] : self._borders[number + 1]].decode("utf-8", "replace")
        return Provenance(self._file_names[self._files[number]], self._lines[number], name, self._pieces[number])


def packed_file_names(names: Sequence[str]) -> tuple[bytes, int]:
    """Return the names of files, packed, and their plain size."""
    plain = b"\0".join(name.encode("utf-8", "surrogateescape") for name in names)
    return zlib.compress(plain, 9), len(plain)


class ProvenanceFile:
    """An open file of entries, read block by block."""

    def __init__(self, stream: BinaryIO, path: object) -> None:
        """Read the tail and the names of the files; `stream` is seekable, and closed by `close`.

        Raises:
            DataError: They are damaged.
            OSError: From the disk.
        """
        self._stream = stream
        self._path = path
        size = stream.seek(0, os.SEEK_END)
        self._tail = tail = self._checked_tail(size)
        try:
            self._files = self._file_names()
            self._ends = self._block_ends(size)
        except (ValueError, zlib.error) as error:
            raise self._damaged(str(error)) from None
        self.num_entries = tail.num_entries
        self._block: tuple[int, _Block] | None = None

    def __enter__(self) -> ProvenanceFile:
        """Return itself; it is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def require_owner(self, owner: int | None, num_entries: int | None = None) -> None:
        """Check that the entries are those of another file, by its hash or size, and by the number of its documents.

        Raises:
            DataError: They are not.
        """
        if owner is not None and self._tail.owner != owner:
            raise DataError(
                f"{self._path} does not belong to the file beside it, which was made anew or changed. Restore that "
                f"file, or remove {self._path}: then it is not known where its documents came from."
            )
        if num_entries is not None and self.num_entries != num_entries:
            raise self._damaged(f"it has {self.num_entries:,} entries for {num_entries:,} documents")

    def require_whole(self) -> None:
        """Check the hash of the file.

        Raises:
            DataError: It is another one.
            OSError: From the disk.
        """
        left = self._stream.seek(0, os.SEEK_END) - TAIL.size
        digest = xxhash.xxh3_64()
        self._stream.seek(0)
        while left > 0 and (piece := self._stream.read(min(left, _HASHED_AT_ONCE))):
            digest.update(piece)
            left -= len(piece)
        digest.update(TAIL.pack(*self._tail._replace(xxh3=0)))
        if digest.intdigest() != self._tail.xxh3:
            raise self._damaged("its hash is another one")

    def entry(self, number: int) -> Provenance:
        """Return an entry by its number, from 0; entries close to each other are read once.

        Raises:
            DataError: There is no such entry, or its block is damaged.
            OSError: From the disk.
        """
        if not 0 <= number < self.num_entries:
            raise self._damaged(f"it has {self.num_entries:,} entries, and entry {number:,} was asked for")
        block, inner = divmod(number, BLOCK_ENTRIES)
        if self._block is None or self._block[0] != block:
            self._block = (block, self._read_block(block))
        return self._block[1].entry(inner)

    def entries(self) -> Iterator[Provenance]:
        """Yield all entries.

        Raises:
            DataError: A block is damaged.
            OSError: From the disk.
        """
        for number in range(self.num_entries):
            yield self.entry(number)

    def _read_block(self, block: int) -> _Block:
        begin = self._ends[block - 1] if block else len(MAGIC)
        count = min(BLOCK_ENTRIES, self.num_entries - block * BLOCK_ENTRIES)
        self._stream.seek(begin)
        try:
            return _Block(self._stream.read(self._ends[block] - begin), count, self._files)
        except (ValueError, zlib.error) as error:
            raise self._damaged(str(error)) from None

    def _checked_tail(self, size: int) -> Tail:
        least = len(MAGIC) + TAIL.size
        if size >= least:
            self._stream.seek(0)
            head = self._stream.read(len(MAGIC))
            self._stream.seek(size - TAIL.size)
            content = self._stream.read(TAIL.size)
            tail = Tail._make(TAIL.unpack(content)) if len(content) == TAIL.size else None
            if head == MAGIC and tail is not None and tail.magic == MAGIC:
                return self._with_possible_sizes(tail, size)
        raise self._damaged("it does not begin and end as such files do")

    def _with_possible_sizes(self, tail: Tail, size: int) -> Tail:
        num_blocks = -(-tail.num_entries // BLOCK_ENTRIES)
        if tail.num_entries > MOST_DOCUMENTS or tail.names_plain > MOST_FILE_NAMES_BYTES:
            raise self._damaged(
                f"it says {tail.num_entries:,} entries and {tail.names_plain:,} bytes of names of files; allowed are "
                f"{MOST_DOCUMENTS:,} and {MOST_FILE_NAMES_BYTES:,}"
            )
        if tail.blocks_end < len(MAGIC) or tail.blocks_end + tail.names_packed + 8 * num_blocks + TAIL.size != size:
            raise self._damaged(f"its pieces do not make its {size:,} bytes")
        return tail

    def _file_names(self) -> list[str]:
        self._stream.seek(self._tail.blocks_end)
        packed = self._stream.read(min(self._tail.names_packed, MOST_FILE_NAMES_BYTES + _MOST_PACKING))
        plain = _unzipped(packed, self._tail.names_plain)
        if len(plain) != self._tail.names_plain or plain.count(b"\0") >= MOST_FILES:
            raise ValueError(f"the names of files are not as long as it says, or more than {MOST_FILES:,}")
        return [name.decode("utf-8", "surrogateescape") for name in plain.split(b"\0")]

    def _block_ends(self, size: int) -> array[int]:
        num_blocks = -(-self._tail.num_entries // BLOCK_ENTRIES)
        self._stream.seek(size - TAIL.size - 8 * num_blocks)
        ends: array[int] = array("Q")
        ends.frombytes(self._stream.read(8 * num_blocks))
        if sys.byteorder == "big":
            ends.byteswap()
        most = BLOCK_ENTRIES * (8 * _COLUMNS + MOST_NAME_BYTES) + _MOST_PACKING
        before = len(MAGIC)
        for end in ends:
            if not before < end <= before + most:
                raise ValueError("its blocks do not follow each other")
            before = end
        if len(ends) != num_blocks or before != self._tail.blocks_end:
            raise ValueError("its blocks do not end where it says")
        return ends

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._path} is damaged: {reason}. Copy it again, or remove it: then it is not known where the documents "
            "came from; nothing else needs it."
        )


def open_provenance(path: Path) -> ProvenanceFile | None:
    """Open a file of entries; None if there is none.

    Raises:
        DataError: It is damaged, or something else than a file.
    """
    try:
        stream = open_to_read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return ProvenanceFile(stream, path)
    except BaseException as error:
        stream.close()
        if isinstance(error, OSError):
            raise _unreadable(path, error) from None
        raise


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot read {path}: {error.strerror or error}. Put the file there again, or remove it: then it is not known "
        "where the documents came from."
    )


def _differences(values: Sequence[int]) -> list[int]:
    return [value - before for value, before in zip(values, (0, *values), strict=False)]


def _planes(values: Sequence[int]) -> bytes:
    column = array("q", values)
    if sys.byteorder == "big":
        column.byteswap()
    content = column.tobytes()
    return b"".join(content[place::8] for place in range(8))


def _column(planes: bytes, count: int) -> array[int]:
    content = bytearray(8 * count)
    for place in range(8):
        content[place::8] = planes[place * count : (place + 1) * count]
    column: array[int] = array("q")
    column.frombytes(bytes(content))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _unzipped(packed: bytes, most: int) -> bytes:
    """Return what was packed.

    Raises:
        ValueError: It is more than `most` bytes, or has no end, or something behind it.
        zlib.error: It is damaged.
    """
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(packed, most + 1)
    if len(plain) > most or not unpacker.eof or unpacker.unused_data:
        raise ValueError("a packed piece is longer or shorter than it says")
    return plain


def _require(values: Sequence[int], least: int, most: int, what: str) -> None:
    if values and not (least <= min(values) and max(values) <= most):
        raise ValueError(f"{what} is not from {least} to {most}")


def _shortened(text: str) -> str:
    shown = one_line(text)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
