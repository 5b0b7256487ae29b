"""Reads small JSON files of a run, such as heartbeats and the files of a launch: as what they should be, or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.json_text import parse_json
from harness.run.lines import open_lines

MOST_BYTES = 16 * 1024**2
"""The largest file that is read. The command line in a launch's file may have 2 MiB."""
Model = TypeVar("Model", bound=BaseModel)


def read_json_file(path: Path, most_bytes: int = MOST_BYTES) -> object:
    """Return the JSON value in a file of at most `most_bytes`.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        ValueError: It does not hold JSON, or is too large.
    """
    with open_lines(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most_bytes else b""
    if max(size, len(content)) > most_bytes:
        raise ValueError(f"larger than {most_bytes >> 20} MiB")
    return parse_json(content)


def read_if_valid(path: Path, kind: type[Model]) -> Model | None:
    """Return the content of a file; None if it is missing, or holds something else."""
    try:
        return kind.model_validate(read_json_file(path))
    except (OSError, ValueError):
        return None
