"""Records the finished files of a checkpoint, so that they are not written again after an interruption.

A file is finished when its record exists. The record is written last, and lists the contents of the file.

```
RECORDS/__0_3.distcp.json   [{"name": …, "shape": […], "dtype": …, "chunk": {"offsets": […], …}}, …]
```
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from checkpoint_tools.torch_dist import Chunk
from harness.run.files import replace_file


class StoredChunk(NamedTuple):
    """A chunk that was written: its tensor's name in the checkpoint, the tensor's shape and format, the chunk."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: Chunk


def record(records: Path, file: Path, stored: Sequence[StoredChunk]) -> list[StoredChunk]:
    """Record that a file is finished, and return its contents as a resumed conversion will read them.

    Its content must have reached the disk.

    Raises:
        OSError: from the disk.
    """
    rows = [{**item._asdict(), "chunk": asdict(item.chunk)} for item in stored]
    replace_file(records / f"{file.name}.json", json.dumps(rows).encode())
    # Read again, so that what is made of it has the same bytes with and without an interruption.
    found = recorded(records, file)
    assert found is not None, f"the record of {file} does not describe it"
    return found


def recorded(records: Path, file: Path) -> list[StoredChunk] | None:
    """Return the contents of a file that is finished and still whole; None for any other."""
    path = records / f"{file.name}.json"
    if not path.exists() or not file.exists():
        return None
    stored = [_stored(row) for row in json.loads(path.read_bytes())]
    return stored if file.stat().st_size == sum(item.chunk.num_bytes for item in stored) else None


def _stored(row: dict[str, Any]) -> StoredChunk:
    place = row["chunk"]
    chunk = Chunk(**{**place, "offsets": tuple(place["offsets"]), "sizes": tuple(place["sizes"])})
    return StoredChunk(name=row["name"], shape=tuple(row["shape"]), dtype=row["dtype"], chunk=chunk)
