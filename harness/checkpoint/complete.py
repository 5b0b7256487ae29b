"""Checks that all files of a checkpoint that was just written are complete, before they are hashed.

Some file systems lose data that they reported as written. The manifest would then promise wrong data, because it hashes
what is on disk. Each file format itself tells how much of it there must be.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from harness.checkpoint.metadata_pickle import METADATA_NAME, Inert, read_inert
from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.files import open_regular


def incompleteness(folder: Path) -> str | None:
    """Return which file of Megatron's is incomplete, or None.

    Raises:
        OSError: From the disk.
    """
    try:
        promised = promised_bytes(read_inert(folder / METADATA_NAME))
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


def promised_bytes(index: Inert) -> dict[str, int]:
    """Return the minimum size of each file with tensors, from the places in it that the checkpoint's index names."""
    sizes: dict[str, int] = {}
    for place in index.state["storage_data"].values():
        name, end = place.state["relative_path"], place.state["offset"] + place.state["length"]
        sizes[name] = max(end, sizes.get(name, 0))
    return sizes


def _bytes_of(path: Path) -> int:
    """Return the size of a file after opening it: until then a network file system may report an old size."""
    with os.fdopen(open_regular(path), "rb") as file:
        return os.fstat(file.fileno()).st_size
