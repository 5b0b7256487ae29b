"""Opens the files of channels, which may be links to files and never pipes or devices: those would wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_to_read(path: Path) -> BinaryIO:
    """Open a regular file, or one that a link leads to.

    Raises:
        OSError: As `open` does, and EINVAL for what is not a regular file.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_within(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file, opened as `open_to_read` does.

    Raises:
        OSError: As `open_to_read` does, and EFBIG for a file of more than `most_bytes`.
    """
    with open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
        content = file.read(most_bytes + 1)  # a file of /proc says 0, and others may grow meanwhile
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
    return content
