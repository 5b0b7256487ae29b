"""Disk operations after which a file is there whole or not at all, also when the machine loses power in between."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

STAGING_SUFFIX = ".partial"
"""What is being written has this suffix; nobody reads it, and the next writer removes it."""

UNREADABLE = "cannot be read"
"""Is in every problem of a checkpoint that the disk has refused to show."""


def open_regular(path: Path) -> int:
    """Open a file for reading and return its descriptor; links, folders, pipes and devices are refused.

    Raises:
        OSError: as `open` does, and EINVAL for what is not a regular file.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The content of a file as `open_regular` opens it; of one larger than `most_bytes` its first `most_bytes` + 1.

    It takes the memory of the file's size: `read(n)` would take `n` first, which a limited process may not have.

    Raises:
        OSError: as `open_regular` does.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(min(os.fstat(file.fileno()).st_size, most_bytes + 1))


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was created, renamed or removed in it stays so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, fsync it, rename it into place and fsync the folder.

    A reader sees the old content or all of the new one. After an error the old content is there; the staging file
    is discarded rather than fsynced again, because a second fsync may succeed although the first one lost data.
    """
    staging = path.with_name(path.name + STAGING_SUFFIX)
    staging.unlink(missing_ok=True)
    try:
        _write_and_sync(staging, content)
        staging.replace(path)
    except OSError:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def _write_and_sync(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(content)
        while rest:  # a write may take less than it was given
            rest = rest[os.write(descriptor, rest) :]
        if os.fstat(descriptor).st_size != len(content):  # there are file systems that lose what they said they took
            raise OSError(errno.EIO, "not all that was written is there", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path, *, first: str) -> None:
    """Remove a folder and what is in it, the file called `first` before all others; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    (path / first).unlink(missing_ok=True)
    shutil.rmtree(path)
