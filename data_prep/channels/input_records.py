"""Records input files by name, size and a hash of their beginning and end: cheap, and two texts differ there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from data_prep.text.file_hashes import hash_of_ends
from data_prep.text.input_file import InputFile, file_bytes
from harness.channels.source import InputRecord, Inputs
from harness.errors import DataError

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
    except OSError as error:
        raise DataError(
            f"input {file}: cannot be read ({error.strerror or error}). Correct its permissions, or leave it out."
        ) from error
    return InputRecord(file.name, size, hash_of_ends(file, size))
