"""Reads a file only if it is a small regular file of this user without hard links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_LASTING_ERRORS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)
"""Errors that depend on the file alone, so that a second try fails in the same way."""
_KINDS = {stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "directory", stat.S_IFIFO: "named pipe"}


class RefusedFileError(ValueError):
    """A file that is not read. The text gives the reason."""


def read_own_file(path: Path, *, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return content and status of a file that anybody may have put there.

    It is checked by name first, because opening a pipe or a device can have effects. It is checked again once it is
    open, because it may have been replaced in between.

    Raises:
        RefusedFileError: It is not a regular file of this user, it is too large, or it may not be read.
        FileNotFoundError: It is gone.
        OSError: It could not be read at the moment, for a reason outside of the file, such as the disk.
    """
    try:
        _require_own(path.lstat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a path cannot carry these flags)
            status = os.fstat(descriptor)
            _require_own(status)
            content = file.read(max_bytes + 1)
    except OSError as error:
        if error.errno not in _LASTING_ERRORS:
            raise
        raise RefusedFileError(f"cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise RefusedFileError(f"larger than {max_bytes >> 10} KiB; a command is a line or two")
    return content, status


def _require_own(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device or socket")
        raise RefusedFileError(f"a {kind}, not a regular file")
    if status.st_uid != os.geteuid():
        raise RefusedFileError(f"belongs to user {status.st_uid}; commands come from the user who trains")
    if status.st_nlink > 1:
        raise RefusedFileError("a second name of another file (a hard link); write a file of its own")
