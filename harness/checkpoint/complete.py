"""Checks that all files of a checkpoint that was just written are complete, before the rest of them is hashed.

Some file systems lose data that they reported as written. Whoever writes a large file sees its size when it is closed;
of the small ones each format itself tells how much of it there must be.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.checkpoints.manifest import FileRecord
from harness.run.checkpoints.stored_index import described_index


def incompleteness(folder: Path, records: Mapping[str, FileRecord]) -> str | None:
    """Return which file of Megatron's is incomplete, or None. `records` has those that their writers have closed.

    Raises:
        OSError: From the disk.
    """
    try:
        promised = described_index(folder).num_bytes
    except CheckpointError as error:
        return str(error)
    for name, size in promised.items():
        if name not in records:
            return f"{name} is in the index, and no rank has written it"
        if (found := records[name].bytes) != size:
            return f"{name} was written with {size:,} bytes and has {found:,} on disk"
    for archive in folder.glob("*.pt"):
        if not _is_whole(archive):
            return f"{archive.name} is not whole"
    for text in folder.glob("*.json"):
        try:
            parse_json(text.read_bytes())
        except ValueError:
            return f"{text.name} is not whole"
    return None


def _is_whole(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False
