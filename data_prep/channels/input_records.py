"""Records input files by name, size and a hash of their beginning and end: cheap, and two texts differ there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from data_prep.text.input_file import InputFile, file_bytes, file_system
from harness.channels.source import InputRecord, Inputs
from harness.errors import DataError

BYTES_HASHED = 1 << 20
"""Bytes at the beginning, and as many at the end."""
FILES_AT_ONCE = 16
"""Files at an address answer late, so several are asked at once."""


def record_inputs(files: Sequence[InputFile]) -> Inputs:
    """Return what `source.json` records of input files.

    Raises:
        DataError: A file cannot be read.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return tuple(pool.map(_record, files))


def _record(file: InputFile) -> InputRecord:
    try:
        size = file_bytes(file)
        digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
        for begin in (0, max(BYTES_HASHED, size - BYTES_HASHED)):
            digest.update(_bytes_of(file, begin, min(size, begin + BYTES_HASHED)))
    except OSError as error:
        raise DataError(
            f"input {file}: cannot be read ({error.strerror or error}). Correct its permissions, or leave it out."
        ) from error
    return InputRecord(file.name, size, digest.hexdigest())


def _bytes_of(file: InputFile, begin: int, end: int) -> bytes:
    if begin >= end:
        return b""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)
    system, path = file_system(file.address)
    return bytes(system.cat_file(path, start=begin, end=end))
