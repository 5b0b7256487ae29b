"""The file of a run's book of alerts, `watch/alerts.json`, which several processes change in turn.

The watcher, the batch script's last step and `harness alerts` may all enter something. Each change is made under a lock
and replaces the file whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.alerts.book import Book
from harness.errors import UsageError
from harness.json_text import parse_json
from harness.run.files import open_own, replace_file
from harness.run.own_file import RefusedFileError, read_own_file
from harness.run.paths import RunDir

_FORMAT = 1
_MOST_BYTES = 16 * 1024**2
_ASIDE_SUFFIX = ".unusable"


class LostBookError(ValueError):
    """The file cannot be used. The text says why."""


def read_book(path: Path) -> Book:
    """Return the book in a file, or an empty book if there is no file.

    Raises:
        LostBookError: It is damaged, another version's or another user's.
        OSError: The disk does not show it.
    """
    try:
        content, _ = read_own_file(path, max_bytes=_MOST_BYTES)
    except FileNotFoundError:
        return Book()
    except RefusedFileError as error:
        raise LostBookError(str(error)) from None
    try:
        fields = parse_json(content)
        if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
            raise LostBookError(f"is not of format {_FORMAT}")
        return Book.model_validate(fields.get("book"))
    except ValueError as error:
        raise LostBookError(f"cannot be read: {type(error).__name__}") from None


@contextmanager
def changing(run_dir: RunDir) -> Iterator[tuple[Book, str | None]]:
    """Yield the book to change, and why an earlier one could not be used; write it at the end, if it has changed.

    Raises:
        OSError: From the disk.
        UsageError: The folder of the watcher cannot be made or locked.
    """
    make_folder(run_dir)
    with _locked(run_dir.watch / "alerts.lock"):
        lost = None
        try:
            book = read_book(run_dir.alert_book)
        except LostBookError as error:
            book, lost = Book(), str(error)
            run_dir.alert_book.replace(run_dir.alert_book.with_name(run_dir.alert_book.name + _ASIDE_SUFFIX))
        before = book.model_dump_json()
        yield book, lost
        if book.model_dump_json() != before:
            replace_file(
                run_dir.alert_book, json.dumps({"format": _FORMAT, "book": book.model_dump(mode="json")}) + "\n"
            )


@contextmanager
def delivering(run_dir: RunDir) -> Iterator[bool]:
    """Yield whether this process may deliver now; False if another one is at it.

    Raises:
        OSError: From the disk.
    """
    make_folder(run_dir)
    descriptor = _open(run_dir.watch / "delivery.lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def make_folder(run_dir: RunDir) -> None:
    """Make the folder of the watcher.

    Raises:
        UsageError: It cannot be made.
    """
    try:
        run_dir.watch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {run_dir.watch}: {error.strerror}; only the user who trains may watch") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
                raise
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return open_own(path)
    except OSError as error:
        word = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise UsageError(f"cannot open {path}: {word}; it must be a file of the user who trains") from None
