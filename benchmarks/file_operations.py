"""Counts the operations on files that Python does, by thread. The functions of `os` that matter at a shared disk."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_AUDITED = frozenset(
    ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
)
_UNHEARD = ("stat", "lstat", "statvfs", "access", "fsync")
"""Functions of which the interpreter tells no audit hook."""

Operations = Counter[tuple[str, str]]
"""Operations by name of the thread and by what it did: `("desk", "open events.jsonl")`."""


class Counting:
    """Operations on files below some folders, and on open files, since the last `take`."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self._roots = tuple(f"{root}/" for root in roots)
        self._found: Operations = Counter()
        self._lock = threading.Lock()

    def take(self) -> Operations:
        """Return what was counted since the last call."""
        with self._lock:
            found, self._found = self._found, Counter()
        return found

    def hear(self, operation: str, where: object) -> None:
        """Count an operation, if its path is below the folders."""
        name = "an open file"
        if not isinstance(where, int):
            path = os.fsdecode(where) if isinstance(where, str | bytes | os.PathLike) else ""
            root = next(filter(path.startswith, self._roots), None)
            if root is None:
                return
            name = path.removeprefix(root)
        with self._lock:
            self._found[threading.current_thread().name, f"{operation.removeprefix('os.')} {name}"] += 1


@contextmanager
def counting(*roots: Path) -> Iterator[Counting]:
    """Yield what counts the operations of all threads below the folders during the `with` block.

    Not for threads of a long-lived process: an audit hook stays for good, and does nothing afterwards.
    """
    counts = Counting(roots)
    is_on = True

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if is_on and event in _AUDITED and arguments:
            counts.hear(event, arguments[0])

    sys.addaudithook(audit)
    originals = {name: getattr(os, name) for name in _UNHEARD}
    for name, original in originals.items():
        setattr(os, name, _heard(counts, name, original))
    try:
        yield counts
    finally:
        is_on = False
        for name, original in originals.items():
            setattr(os, name, original)


def _heard(counts: Counting, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def call(where: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as the function takes and gives)
        counts.hear(name, where)
        return original(where, *arguments, **options)

    return call
