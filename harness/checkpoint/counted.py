"""Files of a checkpoint that are hashed while they are written, and whose close fails if less is on disk.

So nobody reads them again to know their hashes. A writer may be a forked process, which hands its records over.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import xxhash

from harness.run.checkpoints.manifest import FileRecord

Records = dict[str, FileRecord]
"""Size and hashes of files, by their names."""


class CountedFile(io.BufferedWriter):
    """A new file, written from beginning to end. Some file systems lose data that they reported as written."""

    def __init__(self, path: str | Path, *, records: Records | None = None, with_sha256: bool = False) -> None:
        """Open the file. When it is closed, its record is added to `records`."""
        self._path = str(path)
        self._num_bytes = 0
        self._records = {} if records is None else records
        self._digest = xxhash.xxh3_64()
        self._unforgeable = hashlib.sha256() if with_sha256 else None
        super().__init__(io.FileIO(self._path, "wb"))

    def write(self, data: Any, /) -> int:  # noqa: ANN401 (whatever has a buffer)
        """Write the data and return the number of bytes that were taken: all of them."""
        taken = super().write(data)
        self._num_bytes += taken
        self._digest.update(data)
        if self._unforgeable is not None:
            self._unforgeable.update(data)
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
        sha256 = None if self._unforgeable is None else self._unforgeable.hexdigest()
        record = FileRecord(bytes=found, xxh3=self._digest.hexdigest(), sha256=sha256)
        self._records[Path(self._path).name] = record


class Opener:
    """Opens files in place of `open`, and keeps their records until they are taken."""

    def __init__(self) -> None:
        self.with_sha256 = False
        """True if files are hashed for a signature too."""
        self._records: Records = {}

    def __call__(self, path: str | Path, mode: str) -> CountedFile:
        """Open a file for writing."""
        assert mode == "wb", f"mode is {mode!r}: files are only written here"
        return CountedFile(path, records=self._records, with_sha256=self.with_sha256)

    def take(self) -> Records:
        """Return the records of the files that were closed since the last call."""
        taken = dict(self._records)
        self._records.clear()
        return taken
