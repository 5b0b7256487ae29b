"""The folder in which commands run: a copy of a corpus that is made whole again after each of them."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

_Look = dict[str, tuple[int, int, int, int]]
"""Mode, size, inode and time of every entry, by its path."""


class Place:
    """`root` with a copy of the corpus, beside `outside`, which no command may touch."""

    def __init__(self, corpus: Path, folder: Path) -> None:
        self.corpus = corpus
        self.root = folder / "place"
        self._outside = folder / "outside"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._outside.mkdir()
        (self._outside / "secret").write_text("what is in here is nobody's\n")
        shutil.copytree(corpus, self.root, symlinks=True)
        self._whole = _look(self.root)
        self._outside_whole = _look(folder, inside=False)
        self._damaged: _Look = {}

    def begin(self) -> None:
        """Remembers the place as it is now, damaged."""
        self._damaged = _look(self.root)

    def changes(self, allowed: Sequence[str]) -> list[str]:
        """What has changed since `begin`, beside what matches a pattern that is allowed; a folder is its files."""
        now = _look(self.root)
        changed = [path for path in sorted({*now, *self._damaged}) if now.get(path) != self._damaged.get(path)]
        found = [
            f"{path} was {'removed' if path not in now else 'made' if path not in self._damaged else 'changed'}"
            for path in changed
            if not any(fnmatch.fnmatch(path, pattern) for pattern in allowed)
        ]
        outside = _look(self.root.parent, inside=False)
        return found + [
            f"../{path} was changed"
            for path in sorted({*outside, *self._outside_whole})
            if outside.get(path) != self._outside_whole.get(path)
        ]

    def restore(self) -> None:
        """Makes everything again as in the corpus."""
        now = _look(self.root)
        for path in sorted((path for path in now if now[path] != self._whole.get(path)), reverse=True):
            _remove(os.fsencode(self.root) + b"/" + os.fsencode(path))
        for path in sorted(path for path in self._whole if now.get(path) != self._whole[path]):
            source, target = self.corpus / path, self.root / path
            if source.is_dir() and not source.is_symlink():
                target.mkdir(exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        self._whole = _look(self.root)
        if (now_outside := _look(self.root.parent, inside=False)) != self._outside_whole:
            self._outside_whole = now_outside  # it was told; what comes next is told anew


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 (bytes)
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108


def _look(root: Path, *, inside: bool = True) -> _Look:
    """Every entry below a folder; without `inside` not those of the place itself. Folders have no size and time."""
    found: _Look = {}
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = os.path.relpath(entry.path, root)
                if entry.is_dir(follow_symlinks=False):
                    found[path] = (status.st_mode, 0, 0, 0)
                    if inside or entry.name != "place":
                        waiting.append(Path(entry.path))
                else:
                    found[path] = (status.st_mode, status.st_size, status.st_ino, status.st_mtime_ns)
    return found
