"""Follows a file that others append to, and yields every whole line once, even if the file is replaced or cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field

from harness.run.field_types import Flag
from harness.run.lines import MOST_LINE_BYTES, MOST_PASSED_OVER, offset_of_last, open_lines

_MOST_WAITS = 30
_Size = Annotated[int, Field(strict=True, ge=0, lt=2**64)]


@dataclass(slots=True)
class Mark:
    """The position up to which a file has been read. A reader that keeps it on disk goes on where it stopped."""

    inode: _Size = 0
    offset: _Size = 0
    """Bytes read: up to the end of a line, or into one that is too long to be read."""
    is_in_long_line: Flag = False
    """True if the rest of a line that is too long is to be passed over."""
    num_waits: _Size = 0
    """Looks at lines of zero bytes, since one met none: shared file systems may show the new size before the content.
    Lines that stay so are passed over together."""


def mark_of_last(path: Path, num_lines: int) -> Mark:
    """Return a mark with which `new_lines` begins at the last `num_lines` lines of a file.

    For a shorter file, and for one that cannot be read, it is the mark of the file's start.
    """
    with suppress(OSError):
        return Mark(inode=path.stat().st_ino, offset=offset_of_last(path, num_lines))
    return Mark()


def new_lines(path: Path, mark: Mark) -> Iterator[bytes]:
    """Yield the whole lines after the mark, without line ends, and move the mark past each.

    A file that was replaced or became shorter is read from its start, so the caller may see a line again. A half line
    is left for the next call. A line that is too long (`harness.run.lines`) is passed over, and read once. A missing
    file has no lines.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = open_lines(path)
    except FileNotFoundError:
        return
    with file:
        status = os.fstat(file.fileno())
        if status.st_ino != mark.inode or status.st_size < mark.offset:
            mark.inode, mark.offset, mark.num_waits, mark.is_in_long_line = status.st_ino, 0, 0, False
        file.seek(mark.offset)
        yield from _lines_from_here(file, mark)


def _lines_from_here(file: BinaryIO, mark: Mark) -> Iterator[bytes]:
    has_zeros, skipped = False, 0
    while line := file.readline(MOST_LINE_BYTES):
        is_whole = line.endswith(b"\n")
        is_too_long = mark.is_in_long_line or (not is_whole and len(line) == MOST_LINE_BYTES)
        if not is_whole and not is_too_long:
            break
        if not is_too_long and b"\0" in line:
            has_zeros = True
            if mark.num_waits < _MOST_WAITS:
                mark.num_waits += 1
                return
        mark.offset += len(line)
        mark.is_in_long_line = not is_whole
        if not is_too_long:
            yield line.removesuffix(b"\n")
            continue
        skipped += len(line)
        if skipped > MOST_PASSED_OVER:  # the next call goes on: in between the caller has other things to do
            return
    if not has_zeros:
        mark.num_waits = 0
