"""Tells whether a file is the one that it was: by a hash of its beginning and end, or of all of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import xxhash

from data_prep.text.input_file import InputFile, file_bytes, file_system
from harness.errors import DataError

BYTES_HASHED = 1 << 20
"""Bytes at the beginning, and as many at the end."""


def hash_of_ends(file: InputFile, size: int) -> str:
    """Return xxh3 of the size and of the beginning and end of a file: cheap, and two texts differ there.

    Raises:
        DataError: It cannot be read.
    """
    digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
    try:
        for begin in (0, max(BYTES_HASHED, size - BYTES_HASHED)):
            digest.update(_bytes_of(file, begin, min(size, begin + BYTES_HASHED)))
    except OSError as error:
        raise DataError(
            f"input {file}: cannot be read ({error.strerror or error}). Correct its permissions, or leave it out."
        ) from error
    return digest.hexdigest()


def hash_of_file(path: Path) -> str:
    """Return xxh3 of all bytes of a file."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as stream:
        while block := stream.read(BYTES_HASHED):
            digest.update(block)
    return digest.hexdigest()


def last_change(file: InputFile) -> int | None:
    """Return the time of the last change of a file, in nanoseconds; None at an address."""
    return file.stat().st_mtime_ns if isinstance(file, Path) else None


def known_hash(file: InputFile) -> str:
    """Return `hash_of_ends` of a file as it is now. A process that asks again does not read it again.

    Raises:
        DataError: It cannot be read.
    """
    return _hash_at(file, file_bytes(file), last_change(file))


@lru_cache(maxsize=1 << 20)
def _hash_at(file: InputFile, size: int, _: int | None) -> str:
    return hash_of_ends(file, size)


def _bytes_of(file: InputFile, begin: int, end: int) -> bytes:
    if begin >= end:
        return b""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)
    system, path = file_system(file.address)
    return bytes(system.cat_file(path, start=begin, end=end))
