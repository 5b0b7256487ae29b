"""Follows a file that others append to, and yields every whole line once, even if the file is replaced or cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 4 * 1024**2
_MOST_WAITS = 30


@dataclass(slots=True)
class Mark:
    """The position up to which a file has been read. A reader that keeps it on disk goes on where it stopped."""

    inode: int = 0
    offset: int = 0
    """Bytes read: always up to the end of a line."""
    num_waits: int = 0
    """Consecutive looks at a line of zero bytes: shared file systems may show the new size before the content."""


def new_lines(path: Path, mark: Mark) -> Iterator[bytes]:
    """Yield the whole lines after the mark, without line ends, and move the mark past each.

    A file that was replaced or became shorter is read from its start, so the caller may see a line again. A half line
    is left for the next call. A missing file has no lines.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        status = path.stat()
        if status.st_ino != mark.inode or status.st_size < mark.offset:
            mark.inode, mark.offset, mark.num_waits = status.st_ino, 0, 0
        file.seek(mark.offset)
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if b"\0" in line and mark.num_waits < _MOST_WAITS:
                    mark.num_waits += 1
                    return
                mark.offset += len(line) + 1
                mark.num_waits = 0
                yield line
