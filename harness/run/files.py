"""Reads and writes the files of a run, whole or not at all, even if the process dies in between.

Every place that replaces a file or appends lines to one does it through this module; `append` keeps a file open for
lines that come at every step. A file that is being written has the suffix `.partial`; nobody reads it, and the next
writer removes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

STAGING_SUFFIX = ".partial"
_NO_HARD_LINKS_HERE = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_BLOCK_BYTES = 1024**2

UNREADABLE = "cannot be read"
"""Part of every problem text about a checkpoint that the disk refused to show."""


def refusal(path: Path, error: OSError) -> str:
    """Return why the disk did not show a path, with the place that it leads to if it is a link.

    A disk that is not mounted and a folder that was moved away both leave links that lead nowhere.
    """
    target = _target(path)
    return f"{f'is a link to {target}, which ' if target else ''}{UNREADABLE}: {error.strerror}"


def broken_link(path: Path) -> str | None:
    """Return what is wrong with a link that leads nowhere; None for a link that leads somewhere, and for no link."""
    try:
        path.stat()
    except OSError as error:
        return refusal(path, error) if _target(path) else None
    return None


def _target(path: Path) -> Path | None:
    with suppress(OSError):
        return path.readlink()
    return None


def open_regular(path: Path) -> int:
    """Open a file for reading and return its descriptor. Links, folders, pipes and devices are refused.

    Raises:
        OSError: As `open` does, and EINVAL for what is not a regular file.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file, opened as `open_regular` does.

    Of a file larger than `most_bytes` it returns the first `most_bytes` + 1 bytes. It allocates memory for the size of
    the file only: `read(n)` would allocate `n` bytes, which a process under a memory limit may not have.

    Raises:
        OSError: As `open_regular` does.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(min(os.fstat(file.fileno()).st_size, most_bytes + 1))


def require_readable(*paths: Path) -> None:
    """Return if each of these is a regular file that can be read, or is missing. Links are followed.

    Raises:
        OSError: One cannot be read, or is something else.
    """
    for path in paths:
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            os.close(descriptor)
            if not is_file:
                raise OSError(errno.EINVAL, "not a regular file", str(path))


def open_own(path: Path) -> int:
    """Open a file for reading and writing, made if it is missing, and return its descriptor. Nothing is emptied.

    Raises:
        OSError: As `open` does, ELOOP for a link, and EINVAL for what is not a regular file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def open_to_append(path: Path) -> int:
    """Open a file for writing at its end, made if it is missing, and return its descriptor.

    Raises:
        OSError: As `open_own` does.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was created, renamed or removed in it stays that way."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(
    path: Path, *, durable: bool = True, before_rename: Callable[[], object] | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Open a new file beside its place, and rename it into place at the end: readers see the old file or all of this.

    If it must outlive a loss of power (`durable`), the file is synced before it is renamed, and its folder afterwards.
    Signs of life and requests need not, because the next one replaces them, nor what may be lost, such as snapshots on
    a node. `before_rename` is called when the content is complete beside its place. Of the rights in `mode` the umask
    takes some away.

    Raises:
        OSError: From the disk; the old content is there. The staging file is discarded rather than synced again,
            because a second fsync may succeed although the first one lost data.
    """
    staging, own = path.with_name(path.name + STAGING_SUFFIX), None
    try:
        staging.unlink(missing_ok=True)
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            own = os.fstat(descriptor)
            file = os.fdopen(descriptor, "wb", closefd=False)
            try:
                yield file
            except BaseException:
                with suppress(OSError):  # what is left of the content does not matter any more
                    file.close()
                raise
            file.close()
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if before_rename is not None:
            before_rename()
        require_own(staging, own)
        staging.replace(path)
    except (Exception, GeneratorExit):  # the latter in a block that is left without an end, as of a generator
        if own is not None:
            with suppress(OSError):
                require_own(staging, own)
                staging.unlink()
        raise
    if durable:
        fsync_folder(path.parent)


def require_own(staging: Path, written: os.stat_result) -> None:
    """Check that a file under its staging name is still the one that this process wrote.

    Raises:
        OSError: ESTALE: somebody removed it, or another process writes the same file.
    """
    with suppress(FileNotFoundError):
        if os.path.samestat(staging.lstat(), written):
            return
    raise OSError(errno.ESTALE, "another process removed or replaced it while it was written", str(staging))


def replace_file(
    path: Path,
    content: bytes | str,
    *,
    durable: bool = True,
    before_rename: Callable[[], object] | None = None,
    mode: int = 0o666,
) -> None:
    """Write a file whole, as `replacing` does; text is written as UTF-8.

    Raises:
        OSError: As `replacing` does.
    """
    rest = memoryview(content.encode() if isinstance(content, str) else content)
    num_bytes = len(rest)
    with replacing(path, durable=durable, before_rename=before_rename, mode=mode) as file:
        while rest:  # a write may take only a part of the data
            rest = rest[os.write(file.fileno(), rest) :]
        if os.fstat(file.fileno()).st_size != num_bytes:  # some file systems lose data that they reported as written
            raise OSError(errno.EIO, "not all that was written is there", str(path))


def create_file(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, whole or not at all, and never in place of another.

    It is written under a name of its own, so that two processes that make the same file do not meet.

    Raises:
        FileExistsError: It is there by now.
        OSError: As `replacing` does.
    """
    staging = path.with_name(f"{path.name}.{secrets.token_hex(4)}{STAGING_SUFFIX}")
    try:
        replace_file(staging, content)
        try:
            os.link(staging, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS_HERE:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            staging.rename(path)
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
    fsync_folder(path.parent)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines in one write to a file that others may append to as well. The kernel does not mix such writes.

    A half line that a writer left behind when it died is ended first, so that readers lose that line and no other. A
    link is not followed.

    Raises:
        OSError: From the disk. A half line may be there, which the next writer ends.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    if not ends_with_newline(path):
        content = b"\n" + content
    descriptor = open_to_append(path)
    try:
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def append_durably(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines to a file with one writer at a time: all of them or none, even after a power cut.

    A half line that an earlier writer left behind is removed. A link is not followed.

    Raises:
        OSError: From the disk, or as `open_own` does; nothing was appended.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    descriptor = open_own(path)
    try:
        end = _end_of_whole_lines(descriptor)
        if os.fstat(descriptor).st_nlink > 1:  # a second name, as in a copy that shares files, keeps what it has
            replace_file(path, os.pread(descriptor, end, 0) + content)
            return
        os.ftruncate(descriptor, end)
        if os.pwrite(descriptor, content, end) < len(content):
            os.ftruncate(descriptor, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if end == 0:  # the name is new
        fsync_folder(path.parent)


def _end_of_whole_lines(descriptor: int) -> int:
    """Return the place behind the last line end of a file, in bounded memory."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        if (found := os.pread(descriptor, end - start, start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def ends_with_newline(path: Path) -> bool:
    """Return whether a file is missing or empty, or its last byte ends a line."""
    with suppress(FileNotFoundError), os.fdopen(open_regular(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 1))
        return file.read(1) in (b"", b"\n")
    return True


def remove_tree(path: Path, *, first: str) -> None:
    """Remove a folder and its content. The file called `first` goes before all others; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    (path / first).unlink(missing_ok=True)
    shutil.rmtree(path)
