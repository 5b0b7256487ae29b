"""Turns errors of the file system, while an output folder is written, into ones that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import DataError


@contextmanager
def explaining_write_errors(folder: Path, finished: str = "Finished parts") -> Iterator[None]:
    """Say of an error of the file system which folder could not be written, and that what is `finished` stays.

    Raises:
        DataError: Something could not be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}). {finished} are untouched: "
            "make room or repair the file system, then run the same command again."
        ) from error
