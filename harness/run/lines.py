"""Reads lines of files that may be damaged, in bounded memory: what is longer than a line can be is passed over.

Every reader of a file of lines in a run's folder comes through here. The file may be anything: without a newline for a
gigabyte, a pipe, cut off in the middle of a line.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

MOST_LINE_BYTES = 4 * 1024**2
"""A record of a step with ten thousand channels has 3 MiB; an event with all documents that a command can name has
less than one."""
_BLOCK_BYTES = 1024**2
MOST_PASSED_OVER = 1024**3
"""Bytes without a line end after which a file is not one of lines: zeros of terabytes take no room on a disk."""


class LineFile(Protocol):
    """An open file, as `lines_of` reads it."""

    def readline(self, size: int, /) -> bytes:
        """Return bytes up to the end of the line, at most `size`; none at the end of the file."""


def open_lines(path: Path) -> BinaryIO:
    """Open a file for reading. Links are followed; folders, pipes and devices are refused.

    Raises:
        OSError: As `open` does, and EINVAL for what is not a regular file.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return io.BufferedReader(_ReadFile(str(path), opener=lambda _path, _flags: descriptor))


class _ReadFile(io.FileIO):
    """A file that is only read, under its path, so that errors of reading name it."""

    def close(self) -> None:
        """Close it. A disk that fails here takes nothing away: what was read is read."""
        with suppress(OSError):
            super().close()


def lines_of(file: LineFile) -> Iterator[bytes]:
    """Yield every line with its line end, from the place of the file on. A line that is too long is empty.

    Raises:
        OSError: The file cannot be read, or has no line end for a gigabyte.
    """
    while line := file.readline(MOST_LINE_BYTES):
        if len(line) == MOST_LINE_BYTES and not line.endswith(b"\n"):
            passed_over = len(line)
            while (rest := file.readline(_BLOCK_BYTES)) and not rest.endswith(b"\n"):
                passed_over += len(rest)
                _require_lines(passed_over)
            line = b""
        yield line


def _require_lines(passed_over: int) -> None:
    if passed_over > MOST_PASSED_OVER:
        raise OSError(errno.EFBIG, f"no line ends within {MOST_PASSED_OVER >> 30} GiB")


def lines_in(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, as `lines_of` does. A missing file has none.

    Raises:
        OSError: It cannot be read.
    """
    with suppress(FileNotFoundError), open_lines(path) as file:
        yield from lines_of(file)


def lines_backwards(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without line ends, the last one first.

    Too long ones are empty. A missing file has none.

    Raises:
        OSError: It cannot be read, or has no line end for a gigabyte.
    """
    with suppress(FileNotFoundError), open_lines(path) as file:
        position = file.seek(0, os.SEEK_END)
        tail, is_too_long, passed_over = b"", False, 0
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position = file.seek(position - size)
            first, *others = file.read(size).split(b"\n")
            passed_over = 0 if others else passed_over + size
            _require_lines(passed_over)
            if others:
                yield b"" if is_too_long else others[-1] + tail
                yield from reversed(others[:-1])
                tail, is_too_long = first, False
            elif not is_too_long:
                tail = first + tail
            if len(tail) > MOST_LINE_BYTES:
                tail, is_too_long = b"", True
        yield tail


def offset_of_last(path: Path, num_lines: int) -> int:
    """Return the byte at which the last lines of a file begin, so many of them; 0 if it has fewer, or is missing.

    An unfinished last line counts. Reads blocks from the end, and no lines.

    Raises:
        OSError: It cannot be read.
    """
    with suppress(FileNotFoundError), open_lines(path) as file:
        position = end = file.seek(0, os.SEEK_END)
        missing = num_lines
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position = file.seek(position - size)
            block = file.read(size)
            last = len(block) - 1 if position + size == end else len(block)  # the end of the last line begins none
            while missing and (last := block.rfind(b"\n", 0, last)) >= 0:
                missing -= 1
                if not missing:
                    return position + last + 1
    return 0


def last_lines(path: Path, most_bytes: int) -> list[bytes]:
    """Return as many of the last lines of a file as fit in `most_bytes`, without line ends; none if it is unreadable.

    Too long ones are empty, and hide none before them.
    """
    found: list[bytes] = []
    with suppress(OSError):
        for line in lines_backwards(path):
            most_bytes -= len(line) + 1
            if most_bytes < 0:
                break
            found.append(line)
    return found[::-1]
