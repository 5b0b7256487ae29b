"""Keeps two processes from writing the same output folder, and notices when it is taken away meanwhile.

```
FOLDER/.lock   held (`flock`) by the process that writes the folder; the kernel releases it however that process ends
```

The file is never emptied, and a link in its place is not followed. Somebody may delete, move or replace the folder
while it is written: then its `.lock` is no longer the file that is locked, and what was written is not where it
belongs. `SoleWriter.require` says so; the end of the `with` block calls it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import DataError, UsageError
from harness.run.files import STAGING_SUFFIX, fsync_folder, open_own

LOCK_FILE = ".lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MOST_TRIES = 10


class SoleWriter:
    """The right to write a folder: its lock, which this process holds."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self.is_published = False

    @property
    def is_held(self) -> bool:
        """True while the folder is the one that was locked."""
        return _is_same_file(self.folder / LOCK_FILE, self._descriptor)

    def require(self) -> None:
        """Check that the folder is still the one that was locked. Called before anything in it becomes valid.

        Raises:
            DataError: It was deleted, moved or replaced.
        """
        if not self.is_held:
            raise DataError(
                f"{self.folder} was deleted, moved or replaced while it was being written (its {LOCK_FILE} is another "
                "file, or gone): what this command made is not there. Leave the folder alone, and run the same command "
                "again."
            )

    def publish(self, out: Path) -> None:
        """Rename the folder, which is complete, to OUT, and remove the lock. Nothing is overwritten.

        Raises:
            UsageError: OUT exists.
            DataError: The folder was deleted, moved or replaced.
            OSError: The disk refused.
        """
        self.require()
        fsync_folder(self.folder)
        if os.path.lexists(out):
            raise UsageError(f"{out} exists. Name another folder, or remove it: nothing is ever overwritten.")
        # The lock goes last: without it another process could begin to empty the folder before it has its name.
        self.folder.rename(out)
        self.folder, self.is_published = out, True
        (out / LOCK_FILE).unlink()
        fsync_folder(out.parent)


@contextmanager
def sole_writer(folder: Path) -> Iterator[SoleWriter]:
    """Keep other processes from writing a folder, which is there, during the `with` block.

    Raises:
        UsageError: Another process writes it.
        DataError: Its lock is a link or no file; or at the end the folder is another one, or gone.
        OSError: The disk refused.
    """
    descriptor = _taken(folder)
    try:
        held = SoleWriter(folder, descriptor)
        yield held
        if not held.is_published:
            held.require()
    finally:
        os.close(descriptor)


@contextmanager
def partial_folder(out: Path) -> Iterator[SoleWriter]:
    """Make the folder OUT.partial beside the place of OUT, and keep other processes from writing it.

    It may hold what an interrupted call has left. `SoleWriter.publish` gives it its name.

    Raises:
        UsageError: It is a link, or another process writes it.
        DataError: As `sole_writer` does.
        OSError: The disk refused.
    """
    partial = out.with_name(out.name + STAGING_SUFFIX)
    if partial.is_symlink():
        raise UsageError(f"{partial} is a link. Name another folder, or remove it.")
    partial.mkdir(parents=True, exist_ok=True)
    with sole_writer(partial) as held:
        if os.path.lexists(out):  # it got its name a moment ago
            raise UsageError(f"{out} exists. Name another folder, or remove it: nothing is ever overwritten.")
        yield held


def refuse_links(folder: Path) -> None:
    """Refuse links in a folder that an interrupted call has left: what they lead to would be written, or removed.

    Raises:
        DataError: There is one.
    """
    for parent, names, files in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / name for name in (*names, *files))):
            if path.is_symlink():
                raise DataError(f"{path} is a link. Nothing was changed: remove it first.")


def _taken(folder: Path) -> int:
    """Return the descriptor of a folder's lock, held."""
    path = folder / LOCK_FILE
    for _ in range(_MOST_TRIES):
        descriptor = _opened(path)
        try:
            _lock(descriptor, folder)
            # Between opening and locking, whoever held it may have renamed or removed the folder.
            if _is_same_file(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise UsageError(f"{folder} is being replaced again and again by other processes. Stop them first.")


def _opened(path: Path) -> int:
    try:
        return open_own(path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL):
            raise DataError(
                f"{path} is a link or no regular file, and so not the lock of a folder that is written. Nothing was "
                "changed: remove it first."
            ) from error
        raise


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{folder} is being written by another process. Wait until it is done, or stop it first."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:  # there nothing keeps a second process out
            raise


def _is_same_file(path: Path, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False
