"""Keeps two processes from writing the same output folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.text.file_kinds import LOCK_FILE
from harness.errors import UsageError


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep a second process from writing the same folder at the same time.

    Raises:
        UsageError: Another process writes it.
    """
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder} is being written by another process. Wait for it, or stop it first.") from error
        yield
