"""Reads the file of a tokenizer and those beside it within limits, and imports the library for its kind."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import DataError, UsageError
from harness.json_text import JsonError, parse_json
from harness.missing_package import describe_missing

MOST_BYTES = 128 * 1024**2
"""Size of the largest file that is read. The largest published one, of 262,144 ids, has 33 MB."""
MOST_VALUES = 10_000_000
"""Values in the JSON of a tokenizer, which cost about 100 bytes of memory each. The largest published one has two
million."""


def read_file(file: Path) -> bytes:
    """Return the content of a regular file, through links: a cache of Hugging Face consists of them.

    Raises:
        DataError: It cannot be read, is a pipe or a device, or is too large.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            content = opened.read(min(status.st_size, MOST_BYTES + 1))
    except OSError as error:
        raise DataError(f"tokenizer {file}: cannot be read: {error.strerror or error}.") from error
    if len(content) > MOST_BYTES:
        raise DataError(
            f"tokenizer {file}: it is larger than {MOST_BYTES // 1024**2} MiB, which no tokenizer is. Name the file "
            "with the vocabulary."
        )
    return content


def parse_described(content: bytes | str) -> Any:  # noqa: ANN401 (any JSON value)
    """Return the JSON value of a tokenizer's file.

    Raises:
        JsonError: As `parse_json`, and for more than `MOST_VALUES` values.
    """
    text = content if isinstance(content, str) else content.decode("utf-8-sig", errors="replace")
    # Every value but the first in a list or an object has a comma before it; in texts there are some more.
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise JsonError(f"more than {MOST_VALUES:,} values, which no tokenizer has")
    return parse_json(content)


def import_library(name: str, path: Path) -> ModuleType:
    """Import the library that reads a kind of file.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"tokenizer {path}: {describe_missing(error) or error}") from error
