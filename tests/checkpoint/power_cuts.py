"""What a disk may hold after a power cut: an inode model that is fed with recorded disk calls.

Content is durable once its file was fsynced, a name once its folder was fsynced. Of what is not durable yet, any
part may have reached the disk: each pending change of a folder has or has not, content is old, cut off, zeroed or new.
A rename within a folder is one change.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from disk_faults import Call


@dataclass
class File:
    volatile: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    volatile: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Callable[[dict[str, File | Folder]], object]] = field(default_factory=list)

    def change(self, change: Callable[[dict[str, File | Folder]], object]) -> None:
        change(self.volatile)
        self.pending.append(change)


def model_of(path: Path) -> Folder:
    """A folder on the real disk, all of it durable."""
    names: dict[str, File | Folder] = {}
    for child in path.iterdir():
        names[child.name] = model_of(child) if child.is_dir() else File(child.read_bytes(), child.read_bytes())
    return Folder(volatile=names, durable=dict(names))


class DiskModel:
    """The folder `root` as the calls that were applied so far left it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = model_of(root)

    def apply(self, call: Call) -> None:
        if not Path(call.path).is_relative_to(self.root):
            return
        if call.name == "fsync":
            self._fsync(self._node(Path(call.path)))
        elif call.name == "write":
            file = self._node(Path(call.path))
            assert isinstance(file, File)
            file.volatile += call.data
        elif call.name != "close" and (call.name != "open" or call.creates):
            self._rename_or_make(call)

    def _rename_or_make(self, call: Call) -> None:
        path = Path(call.path)
        folder, name = self._node(path.parent), path.name
        assert isinstance(folder, Folder)
        if call.name in ("rename", "replace"):
            target = Path(call.target)
            assert target.parent == path.parent, "the model knows renames within one folder only"
            node = folder.volatile[name]
            folder.change(lambda names: (names.pop(name, None), names.update({target.name: node})))
        elif call.name in ("unlink", "rmdir"):
            folder.change(lambda names: names.pop(name, None))
        else:
            made: File | Folder = File() if call.name == "open" else Folder()
            folder.change(lambda names: names.update({name: made}))

    def _node(self, path: Path) -> File | Folder:
        node: File | Folder = self.tree
        for name in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.volatile[name]
        return node

    @staticmethod
    def _fsync(node: File | Folder) -> None:
        if isinstance(node, File):
            node.durable = node.volatile
        else:
            node.durable = dict(node.volatile)
            node.pending = []

    def write_survivors(self, folder: Path, chance: random.Random | None) -> None:
        """Write what is left after a power cut into an empty folder; without `chance` nothing survives unsynced."""
        _write(self.tree, folder, chance)


def _write(node: Folder, path: Path, chance: random.Random | None) -> None:
    path.mkdir(exist_ok=True)
    names = dict(node.durable)
    for change in node.pending:
        if chance is not None and chance.random() < 0.5:
            change(names)
    for name, child in names.items():
        if isinstance(child, Folder):
            _write(child, path / name, chance)
        else:
            (path / name).write_bytes(_content(child, chance))


def _content(file: File, chance: random.Random | None) -> bytes:
    if chance is None or file.durable == file.volatile:
        return file.durable
    new = file.volatile
    return chance.choice([file.durable, new[: len(new) // 2], bytes(len(new)), new])
