"""A file that counts the written bytes, and whose close fails if fewer are on disk."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any


class CountedFile(io.BufferedWriter):
    """A new file, written from beginning to end. Some file systems lose data that they reported as written."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._num_bytes = 0
        super().__init__(io.FileIO(self._path, "wb"))

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (whatever has a buffer)
        """Write the data and return the number of bytes that were taken."""
        taken = super().write(data)
        self._num_bytes += taken
        return taken

    def close(self) -> None:
        """Close the file. A second call does nothing.

        Raises:
            OSError: From the disk, or because not all that was written is there.
        """
        if self.closed:
            return
        try:
            self.flush()
            found = os.fstat(self.fileno()).st_size
        finally:
            super().close()
        if found != self._num_bytes:
            raise OSError(errno.EIO, f"{self._num_bytes:,} bytes were written and {found:,} are there", self._path)


def open_counted(path: str | Path, mode: str) -> CountedFile:
    """Open a file for writing, in place of `open`."""
    assert mode == "wb", f"mode is {mode!r}: files are only written here"
    return CountedFile(path)
