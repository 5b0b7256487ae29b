"""Words for errors of the disk that no command foresaw: a file that may not be read, a folder in place of a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from harness.errors import EXIT_BAD_DATA, EXIT_USAGE

_ONLY_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EFBIG)
_PASSING = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.EREMOTEIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
)
_ADVICE = {
    errno.EACCES: ". Ask its owner for the right to read it, or call this as its owner",
    errno.EPERM: ". Ask its owner for the right to read it, or call this as its owner",
    errno.EISDIR: ". A file belongs there",
    errno.ENOTDIR: ". A folder belongs there",
    errno.ENOSPC: ". Make room there",
    errno.EDQUOT: ". Make room there",
}


def disk_problem(error: OSError, arguments: Sequence[str]) -> tuple[str, int] | None:
    """Return what an error of the disk says in one line, and the exit code; None for an error that is a bug.

    An argument that is no usable path is wrong usage, any other file wrong data. An error without a file is a bug,
    but for those that only a disk has.
    """
    name = _name_of(error)
    if error.errno == errno.ENAMETOOLONG and name is not None:
        text = (
            f"{name[:80]}…: the name of {len(name):,} characters is longer than a file can have here (usually 255 "
            "bytes for each name, 4,096 for a path). Was a text given in place of a path?"
        )
        return text, EXIT_USAGE
    reason = error.strerror or str(error)
    if name is not None:
        places = {argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments}
        return f"{name}: {reason}{_ADVICE.get(error.errno or 0, '')}", EXIT_USAGE if name in places else EXIT_BAD_DATA
    return (f"the disk refused: {reason}", EXIT_BAD_DATA) if error.errno in _ONLY_OF_A_DISK else None


def may_pass(error: BaseException) -> bool:
    """Return whether behind an error is one of the disk, or of a shared file system, that a later try may not have."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return isinstance(cause, OSError) and cause.errno in _PASSING


def _name_of(error: OSError) -> str | None:
    """Return the path that an error is about."""
    name = error.filename
    if isinstance(name, bytes | os.PathLike):
        return os.fsdecode(name)
    return name if isinstance(name, str) else None
