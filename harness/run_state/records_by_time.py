"""Finds a record in `metrics.jsonl` by its time, without reading the file: times rise from line to line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from harness.run.lines import lines_of, open_lines
from harness.run.records import StepRecord, from_json_line

_FEW_BYTES = 64 * 1024
"""So many are read line by line."""


def last_record_before(path: Path, moment: float) -> StepRecord | None:
    """Return the last record of a file that is older than a moment in seconds since 1970; None without one.

    It reads some twenty places of the file, however long it is. A file that cannot be read has no records.
    """
    with suppress(OSError), open_lines(path) as file:
        low, high = 0, file.seek(0, os.SEEK_END)
        while high - low > _FEW_BYTES:
            middle = (low + high) // 2
            record = next(_records_from(file, middle), None)
            if record is not None and record.time < moment:
                low = middle
            else:
                high = middle
        older = None
        for record in _records_from(file, low):
            if record.time >= moment:
                break
            older = record
        return older
    return None


def _records_from(file: BinaryIO, position: int) -> Iterator[StepRecord]:
    """Yield the records behind a place of the file, which may lie within a line."""
    file.seek(max(0, position - 1))
    lines = lines_of(file)
    if position:
        next(lines, None)
    for line in lines:
        if (record := from_json_line(line)) is not None:
            yield record
