"""Lines appended to a file that stays readable whatever happens: a crash, a full disk, a file system that goes away."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from harness.run.files import ends_with_newline, open_to_append

MAX_WAITING_LINES = 10_000


class AppendFile(Protocol):
    """An open file, as `JsonLines` uses it."""

    def write(self, data: bytes, /) -> int | None:
        """Write at the end of the file and return the number of bytes that were taken."""

    def close(self) -> None:
        """Close the file."""


OpenFile = Callable[[Path], AppendFile]


def open_unbuffered(path: Path) -> AppendFile:
    """Open a file for appending, without a buffer: a line that was written is in the file. A link is not followed."""
    return os.fdopen(open_to_append(path), "ab", buffering=0)


class JsonLines:
    """Appends lines to a file. Lines that the disk did not take wait, and are written before the next ones."""

    def __init__(self, path: Path, open_file: OpenFile = open_unbuffered, *, is_shared: bool = False) -> None:
        """Take the path; nothing is opened yet, and the file is made if missing.

        `is_shared` if others append to the file too. One of them may leave half a line at any moment.
        """
        self.path = path
        self._is_shared = is_shared
        self._open_file = open_file
        self._file: AppendFile | None = None
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING_LINES)

    @property
    def num_waiting(self) -> int:
        """Number of lines that could not be written yet. Beyond `MAX_WAITING_LINES` the oldest are dropped."""
        return len(self._waiting)

    def append(self, line: str) -> None:
        """Write the waiting lines and this one.

        Raises:
            OSError: The file did not take them all; what is left waits for the next call.
        """
        self._waiting.append(line.encode())
        self.write_waiting()

    def write_waiting(self) -> None:
        """Write the waiting lines. Raises OSError as `append` does."""
        try:
            if is_new := self._file is None:
                self._file = self._open_file(self.path)
            assert self._file is not None, "it was opened"
            # A crash or a full disk may have left half a line. In a shared file it may be another writer's.
            if self._waiting and (is_new or self._is_shared) and not ends_with_newline(self.path):
                write_whole(self._file, b"\n")
            while self._waiting:
                write_whole(self._file, self._waiting[0])
                self._waiting.popleft()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. The next write opens it again, and ends a line that may be only half there."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # nothing is buffered, so nothing is lost
                file.close()


def write_whole(file: AppendFile, data: bytes) -> None:
    """Write all of the data. A disk that takes only a part of it raises OSError, like one that takes nothing."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
