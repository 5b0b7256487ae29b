"""Reads a Parquet file in a limited child before it is read here: a few bytes may ask for any memory.

A page of some hundred bytes may stand for gigabytes, and so may a dictionary of one long text that all rows point to.
The child reads all that is to be read, by fewer and fewer rows at once until it fits.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.parquet import open_table, read_table
from data_prep.text.record_names import NO_NAMES, NameKeys
from harness.errors import DataError, HarnessError
from harness.json_text import parse_json
from harness.limited_child import LimitedError, limited

ROWS_AT_ONCE = (1024, 32, 1)
"""Rows that are read at once, from the first that needs no more than the memory below."""
MEMORY_BYTES = 1 << 30
"""Parquet's pages have 1 MiB or so, and a text has at most 64 MiB: none of the usual writers comes near to it."""
_SECONDS = 60.0
_BYTES_PER_SECOND = 1_000_000
"""A fiftieth of the usual speed."""


def rows_at_once(file: InputFile, column: str, whole: bool, names: NameKeys = NO_NAMES) -> int:
    """Return how many rows of a file can be read at once within the limits. A file at an address is not tried.

    Raises:
        DataError: Not one can, or the library that reads it dies of it.
    """
    if not isinstance(file, Path):
        return ROWS_AT_ONCE[1]
    found = file.stat()
    return _tried(file, column, whole, names, (found.st_size, found.st_mtime_ns, found.st_ino))


@lru_cache(maxsize=4096)
def _tried(file: Path, column: str, whole: bool, names: NameKeys, identity: tuple[int, int, int]) -> int:
    seconds = _SECONDS + identity[0] / _BYTES_PER_SECOND
    reason = ""
    for rows in ROWS_AT_ONCE:
        wanted = json.dumps({"file": str(file), "column": column, "whole": whole, "names": names, "rows": rows})
        try:
            limited(probe, wanted.encode(), memory_bytes=MEMORY_BYTES, seconds=seconds)
            return rows
        except LimitedError as error:
            reason = str(error)
            if "of memory" not in reason:
                break
    raise DataError(
        f"{file}: {reason}. The file is damaged, or made to do harm: fetch it again, or write it with smaller pages."
    )


def probe(content: bytes) -> bytes:
    """Read all that JSON `content` names, and keep nothing. Errors that the reader tells are told by the next reader.

    Raises:
        MemoryError: It takes more than there is.
    """
    wanted = parse_json(content)
    file = Path(wanted["file"])
    try:
        with open_table(file, wanted["column"], wanted["whole"], wanted["names"]) as opened:
            for _ in read_table(opened, 0, wanted["rows"], file_bytes(file)):
                pass
    except HarnessError:
        pass
    return b""
