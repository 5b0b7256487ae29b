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
    """Open a file for appending, without a buffer: a line that was written is in the file. A link is not followed.

    Raises:
        OSError: As `open_to_append` does.
    """
    return os.fdopen(open_to_append(path), "ab", buffering=0)


class FileSeen:
    """A file as its writer saw it last, by its name: it may be removed, replaced or cut while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: os.stat_result | None = None

    def loss(self) -> str | None:
        """Return what has happened to the file since `look`, in words; None if it is still there.

        Raises:
            OSError: The disk does not say.
        """
        seen, now = self._seen, self._status()
        if seen is None:
            return None
        if now is None:
            return "was removed while it was written to"
        if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
            return "was replaced by another file while it was written to"
        return "was cut while it was written to" if now.st_size < seen.st_size else None

    def look(self) -> None:
        """Take the file as it is now for the one that is written to."""
        self._seen = self._status()

    def _status(self) -> os.stat_result | None:
        try:
            return self._path.stat()
        except FileNotFoundError:
            return None


class JsonLines:
    """Appends lines to a file. Lines that the disk did not take wait, and are written before the next ones."""

    def __init__(
        self,
        path: Path,
        open_file: OpenFile = open_unbuffered,
        *,
        is_shared: bool = False,
        tell_loss: Callable[[str], None] = lambda found: None,
    ) -> None:
        """Take the path; nothing is opened yet, and the file is made if missing.

        `is_shared` if others append to the file too. One of them may leave half a line at any moment. `tell_loss` gets
        what happened to a file that is no longer the one that was written to, in words; it is then opened anew.
        """
        self.path = path
        self._is_shared = is_shared
        self._open_file = open_file
        self._tell_loss = tell_loss
        self._file: AppendFile | None = None
        self._seen = FileSeen(path)
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
            if (loss := self._seen.loss()) is not None:
                self.close()
            if is_new := self._file is None:
                self._file = self._open_file(self.path)
            assert self._file is not None, "it was opened"
            # A crash or a full disk may have left half a line. In a shared file it may be another writer's.
            if self._waiting and (is_new or self._is_shared) and not ends_with_newline(self.path):
                write_whole(self._file, b"\n")
            while self._waiting:
                write_whole(self._file, self._waiting[0])
                self._waiting.popleft()
            self._seen.look()
        except OSError:
            self.close()
            raise
        if loss is not None:
            self._tell_loss(loss)

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
