"""The names of files: which ones are read as text and how they are packed, and which ones we put beside text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

Content = Literal["lines", "parquet"]
Packing = Literal["plain", "gz", "zst", "bz2", "xz"]

_ENDING = re.compile(r"\.(?:(?P<lines>jsonl|json|ndjson)(?:\.(?P<packing>gz|zst|bz2|xz))?|parquet)\Z", re.IGNORECASE)
READ_ENDINGS = ".jsonl, .jsonl.gz, .jsonl.zst, .jsonl.bz2, .jsonl.xz (the same with .json or .ndjson) or .parquet"
"""All of them, in words. Capital letters make no difference."""

FILES_LIST = "files.json"
"""The list of what became of each file, in a folder of cleaned, de-duplicated or ordered text."""
DROPPED = ".dropped"
"""Ending of a list of dropped lines, beside the file of the kept ones."""
STATE_FOLDER = ".stages"
"""Folder in which the steps of a corpus keep their state."""


@dataclass(frozen=True)
class FileKind:
    """The kind of an input file, as its name tells it."""

    content: Content
    packing: Packing
    ending: str
    """All of the ending, as it is spelt."""

    @property
    def is_json(self) -> bool:
        """True for `.json`, packed or not, which others use for single values too."""
        return ".json" in self.ending.lower().replace(".jsonl", "")

    @property
    def is_plain_json(self) -> bool:
        """True for `.json`, which others use for settings too."""
        return self.is_json and self.packing == "plain"


def kind_of(name: str) -> FileKind | None:
    """Return the kind of a file of this name; None if it is not read."""
    found = _ENDING.search(name)
    if found is None:
        return None
    packing = (found["packing"] or "plain").lower()
    return FileKind("lines" if found["lines"] else "parquet", cast("Packing", packing), found[0])
