"""Checks that all files of a checkpoint that was just written are complete, before they are hashed.

Some file systems lose data that they reported as written. The manifest would then promise wrong data, because it hashes
what is on disk. Each file format itself tells how much of it there must be.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.checkpoints.stored_index import described_index
from harness.run.files import open_regular


def incompleteness(folder: Path) -> str | None:
    """Return which file of Megatron's is incomplete, or None.

    Raises:
        OSError: From the disk.
    """
    try:
        promised = described_index(folder).num_bytes
    except CheckpointError as error:
        return str(error)
    for name, size in promised.items():
        found = _bytes_of(folder / name)
        if found != size:
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


def _bytes_of(path: Path) -> int:
    """Return the size of a file after opening it: until then a network file system may report an old size."""
    with os.fdopen(open_regular(path), "rb") as file:
        return os.fstat(file.fileno()).st_size
