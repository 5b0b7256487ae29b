"""The names of files: which ones are read and how they are packed, and which ones we put beside text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Content = Literal["lines", "parquet", "html", "pdf", "warc"]
Packing = Literal["plain", "gz", "zst", "bz2", "xz"]

READ_ENDINGS = ".jsonl, .jsonl.gz, .jsonl.zst, .jsonl.bz2, .jsonl.xz (the same with .json or .ndjson) or .parquet"
"""All of those of text, in words. Capital letters make no difference."""
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

    @property
    def is_one_page(self) -> bool:
        """True for a file that is one document as a whole, so that a damaged one costs no other."""
        return self.content in ("html", "pdf")


@dataclass(frozen=True)
class Endings:
    """The endings of names that a command reads."""

    pattern: re.Pattern[str]
    contents: Mapping[str, Content]
    """Content of each ending, without its packing."""
    shown: str
    """All of them, in words."""

    def kind_of(self, name: str) -> FileKind | None:
        """Return the kind of a file of this name; None if it is not read."""
        found = self.pattern.search(name)
        if found is None:
            return None
        packing = (found["packing"] or "plain").lower()
        return FileKind(self.contents[found["content"].lower()], cast("Packing", packing), found[0])


def _endings(contents: Mapping[str, Content], shown: str) -> Endings:
    # Parquet is packed inside.
    pattern = rf"\.(?P<content>{'|'.join(contents)})(?:(?<!parquet)\.(?P<packing>gz|zst|bz2|xz))?\Z"
    return Endings(re.compile(pattern, re.IGNORECASE), contents, shown)


TEXT = _endings({"jsonl": "lines", "json": "lines", "ndjson": "lines", "parquet": "parquet"}, READ_ENDINGS)
"""Of text."""
PAGES = _endings(
    {"html": "html", "htm": "html", "xhtml": "html", "pdf": "pdf", "warc": "warc"},
    ".html, .htm, .xhtml, .pdf, .warc, .warc.gz (each also packed as .gz, .zst, .bz2 or .xz)",
)
"""Of web pages and books, from which text is extracted."""


def kind_of(name: str) -> FileKind | None:
    """Return the kind of a file of text of this name; None if it is not read as text."""
    return TEXT.kind_of(name)


def any_kind_of(name: str) -> FileKind | None:
    """Return the kind of a file of this name, of text or of pages."""
    return TEXT.kind_of(name) or PAGES.kind_of(name)
