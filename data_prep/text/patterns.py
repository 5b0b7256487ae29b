"""Finds what a pattern of the shell names. Unlike `glob` it follows every link once, so that links in a circle end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import TypeAlias

from harness.errors import DataError

Identity: TypeAlias = tuple[int, int] | Path

_ANY_FOLDERS = "**"


def identity_of(path: Path) -> Identity:
    """Return what tells whether two paths lead to one file or folder: by links of either kind."""
    status = path.stat()
    # Some file systems of networks number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else path.resolve()


def entries(folder: Path) -> list[Path]:
    """Return all that is in a folder, sorted.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return sorted(Path(entry) for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(
            f"input {folder}: the folder cannot be read ({error.strerror or error}). Correct its permissions, or name "
            "the files that can be read."
        ) from error


def matches(pattern: str) -> list[Path]:
    """Return the files and folders that a pattern names, each path once. `**` stands for any folders, or none.

    As in the shell `*` and `**` do not stand for names that begin with a dot.

    Raises:
        DataError: A folder cannot be read.
    """
    path = Path(pattern)
    parts = path.parts[1:] if path.anchor else path.parts
    return list(dict.fromkeys(_matches(Path(path.anchor), list(parts))))


def _matches(base: Path, parts: list[str]) -> Iterator[Path]:
    if not parts:
        yield base
        return
    part, *rest = parts
    if part == _ANY_FOLDERS:
        if not rest:
            yield base
        elif rest[0] == _ANY_FOLDERS:
            yield from _matches(base, rest)
        else:
            for folder in _folders(base):
                yield from _matches(folder, rest)
    elif has_magic(part):
        for entry in entries(base) if base.is_dir() else []:
            is_hidden = entry.name.startswith(".") and not part.startswith(".")
            if not is_hidden and fnmatchcase(entry.name, part):
                yield from _matches(entry, rest)
    elif os.path.lexists(base / part):
        yield from _matches(base / part, rest)


def _folders(top: Path) -> Iterator[Path]:
    """Yield a folder and the folders below it, each once: real ones before linked ones."""
    if not top.is_dir():
        return
    seen: set[Identity] = set()
    pending: list[Path] = [top]
    linked: list[Path] = []
    while pending or linked:
        folder = pending.pop() if pending else linked.pop(0)
        identity = identity_of(folder)
        if identity in seen:
            continue
        seen.add(identity)
        yield folder
        below = [entry for entry in entries(folder) if not entry.name.startswith(".") and entry.is_dir()]
        linked += [entry for entry in below if entry.is_symlink()]
        pending += [entry for entry in reversed(below) if not entry.is_symlink()]
