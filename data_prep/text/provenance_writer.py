"""Writes where documents came from, entry by entry, in blocks that take bounded memory."""

from __future__ import annotations

import struct
from array import array
from contextlib import ExitStack, suppress
from pathlib import Path

import xxhash

from harness.channels.provenance import (
    BLOCK_ENTRIES,
    MAGIC,
    MOST_FILE_NAMES_BYTES,
    MOST_FILES,
    MOST_NAME_BYTES,
    TAIL,
    UNKNOWN_FILE,
    Provenance,
    Tail,
    pack_block,
    packed_file_names,
)
from harness.run.files import replacing


class _GivenUpError(Exception):
    """The file is not to be written."""


class ProvenanceWriter:
    """Writes one file; it has its name after `finish`, and nothing is left of it after `close`.

    Equal entries give equal bytes. It needs 8 bytes of memory for 1,024 entries, and the names of the source files.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file beside its place.

        Raises:
            OSError: From the disk.
        """
        self.num_entries = 0
        self._files: dict[str, int] = {}
        self._file_name_bytes = 0
        self._open: list[tuple[int, int, int, bytes]] = []
        self._ends = array("Q")
        self._position = 0
        self._hash = xxhash.xxh3_64()
        self._stack = ExitStack()
        self._stream = self._stack.enter_context(replacing(path))
        self._write(MAGIC)

    def add(self, entry: Provenance) -> None:
        """Add the entry of the next document."""
        file = self._number_of(entry.file)
        self._open.append((file, entry.line, entry.piece, _cut(entry.name)))
        self.num_entries += 1
        if len(self._open) == BLOCK_ENTRIES:
            self._end_block()

    def finish(self, owner: int) -> None:
        """Put the file on disk under its name; `owner` is the hash, or the size, of the file that it belongs to.

        Raises:
            OSError: From the disk.
        """
        if self._open:
            self._end_block()
        blocks_end = self._position
        packed, plain_bytes = packed_file_names(list(self._files))
        self._write(packed)
        self._write(struct.pack(f"<{len(self._ends)}Q", *self._ends))
        tail = Tail(self.num_entries, owner, blocks_end, len(packed), plain_bytes, 0, MAGIC)
        self._hash.update(TAIL.pack(*tail))
        self._stream.write(TAIL.pack(*tail._replace(xxh3=self._hash.intdigest())))
        self._stack.close()

    def close(self) -> None:
        """Abandon the file, for example after an error; it changes nothing after `finish`."""
        with suppress(_GivenUpError, OSError), self._stack:
            raise _GivenUpError

    def _number_of(self, file: str) -> int:
        if not file:
            return UNKNOWN_FILE
        if (number := self._files.get(file)) is not None:
            return number
        size = len(file.encode("utf-8", "surrogateescape")) + 1
        is_full = len(self._files) >= MOST_FILES or self._file_name_bytes + size > MOST_FILE_NAMES_BYTES
        if is_full or "\0" in file:
            return UNKNOWN_FILE
        self._file_name_bytes += size
        return self._files.setdefault(file, len(self._files))

    def _end_block(self) -> None:
        files, lines, pieces, names = zip(*self._open, strict=True)
        self._write(pack_block(files, lines, pieces, names))
        self._ends.append(self._position)
        self._open.clear()

    def _write(self, content: bytes) -> None:
        self._stream.write(content)
        self._hash.update(content)
        self._position += len(content)


def _cut(name: str) -> bytes:
    """Return a name as UTF-8, cut behind a whole character."""
    content = name.encode("utf-8", "replace")
    return content if len(content) <= MOST_NAME_BYTES else content[:MOST_NAME_BYTES].decode("utf-8", "ignore").encode()
