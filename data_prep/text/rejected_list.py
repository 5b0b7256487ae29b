"""Opens the list of rejected lines of a channel, where an earlier call left it. What it is a link to is left alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from harness.errors import DataError
from harness.run.files import open_own, open_regular, replace_file


@contextmanager
def opened_list(path: Path, kept_bytes: int) -> Iterator[BinaryIO]:
    """Open the list behind its first bytes, which are of earlier calls; what is there behind them is cut off.

    Raises:
        DataError: It is a link or no file, or shorter than that.
        OSError: From the disk.
    """
    descriptor = _opened(path, kept_bytes)
    with os.fdopen(descriptor, "r+b") as file:
        file.truncate(kept_bytes)
        file.seek(kept_bytes)
        yield file


def bytes_of_lines(path: Path, num_lines: int) -> int:
    """Return the size of the first lines of the list; of all lines if it has fewer, 0 if there is none.

    Raises:
        DataError: It is a link or no file.
        OSError: From the disk.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return sum(map(len, islice(file, num_lines)))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _refused(path, error) from error


def _opened(path: Path, kept_bytes: int) -> int:
    try:
        descriptor = open_own(path)
    except OSError as error:
        raise _refused(path, error) from error
    found = os.fstat(descriptor)
    if found.st_size < kept_bytes:
        os.close(descriptor)
        raise DataError(
            f"{path} has {found.st_size:,} bytes, and {kept_bytes:,} were written before the interruption. Was it "
            "edited? Restore it, or delete the channel folder to make it anew."
        )
    if found.st_nlink == 1:
        return descriptor
    # Another name of the same file, as in a copy that shares files, keeps what it has.
    kept = os.pread(descriptor, kept_bytes, 0)
    os.close(descriptor)
    replace_file(path, kept)
    return open_own(path)


def _refused(path: Path, error: OSError) -> Exception:
    """Return the error that a link, or something that is no file, is for a user; any other as it is."""
    if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL):
        return error
    return DataError(
        f"{path} is a link or no regular file, and so not the list of rejected lines that harness writes. Nothing was "
        "changed: remove it first."
    )
