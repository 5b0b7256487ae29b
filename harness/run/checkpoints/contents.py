"""The content of a checkpoint's folder: files, their sizes and their hashes."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from harness.run.checkpoints.manifest import MANIFEST_NAME, FileRecord
from harness.run.files import STAGING_SUFFIX, open_regular

NUM_THREADS = 8
"""Files hashed at once. A thread hashes more than 10 GB/s, so several are needed to keep the file system busy."""
_CHUNK_BYTES = 4 * 1024**2

Progress = Callable[[int], None]
"""Called with the number of bytes hashed since the last call, by one thread at a time."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A folder as it is on disk, without its manifest. Names are relative, with `/`."""

    files: dict[str, int]
    """Name and size in bytes of every regular file."""
    strange: dict[str, str]
    """Other entries than regular files and folders: name, and kind in words."""
    folders: tuple[Path, ...]
    """The folder itself and all below it, the deepest first."""


def contents(folder: Path) -> Contents:
    """List a folder and the folders in it; links are never followed.

    Raises:
        OSError: From the disk.
    """
    files: dict[str, int] = {}
    strange: dict[str, str] = {}
    folders = [folder]
    for current in folders:  # grows while it is walked
        with os.scandir(current) as entries:
            for entry in entries:
                path = Path(entry.path)
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
                elif stat.S_ISREG(status.st_mode):
                    files[path.relative_to(folder).as_posix()] = status.st_size
                else:
                    kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                    strange[path.relative_to(folder).as_posix()] = kind
    for own in (MANIFEST_NAME, MANIFEST_NAME + STAGING_SUFFIX):
        files.pop(own, None)
    return Contents(files=files, strange=strange, folders=tuple(reversed(folders)))


def bytes_of(path: Path) -> int:
    """Return the size of a file after opening it: until then a network file system may report an old size.

    Raises:
        OSError: From the disk.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        return os.fstat(file.fileno()).st_size


def file_records(
    folder: Path,
    names: Collection[str],
    *,
    sync: bool = False,
    with_sha256: bool = False,
    progress: Progress | None = None,
) -> dict[str, FileRecord]:
    """Return size and hashes of each named file, read in parallel. With `sync` each file is fsynced before it is read.

    Raises:
        OSError: The first error from the disk.
    """
    report = _one_at_a_time(progress)
    ordered = sorted(names)
    with ThreadPoolExecutor(max_workers=max(1, min(NUM_THREADS, len(ordered)))) as pool:
        records = pool.map(lambda name: _file_record(folder / name, sync, with_sha256, report), ordered)
        return dict(zip(ordered, records, strict=True))


def _file_record(path: Path, sync: bool, with_sha256: bool, progress: Progress) -> FileRecord:
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        if sync:
            # fsync of any descriptor flushes the whole file, also what other processes of this machine wrote.
            os.fsync(file.fileno())
        digest = xxhash.xxh3_64()
        unforgeable = hashlib.sha256() if with_sha256 else None
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, os.fstat(file.fileno()).st_size + 1)))
        size = 0
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if unforgeable is not None:
                unforgeable.update(buffer[:count])
            size += count
            progress(count)
    sha256 = None if unforgeable is None else unforgeable.hexdigest()
    return FileRecord(bytes=size, xxh3=digest.hexdigest(), sha256=sha256)


def _one_at_a_time(progress: Progress | None) -> Progress:
    if progress is None:
        return lambda count: None
    lock = threading.Lock()

    def report(count: int) -> None:
        with lock:
            progress(count)

    return report
