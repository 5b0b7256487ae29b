"""Snapshots of one rank on a disk of its node, or in the node's memory, only for a start on the same node.

```
<folder>/harness-<user id>/<hash of the run directory>/rank_00003/
    step_0000110.1.<start>.state   the tensors of the rank, end to end
    step_0000110.1.<start>.json    their description, written last: without it the snapshot is unfinished
```

Nothing is synced: a power cut costs only a snapshot, which its hash reveals. The folders must belong to the user who
trains and be closed to others, because everybody can write to `/dev/shm` and `/tmp`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import xxhash
from pydantic import AwareDatetime, Field, ValidationError

from harness.run.checkpoints.manifest import Count, Manifest, Record
from harness.run.files import open_regular, read_regular, replace_file, replacing
from harness.run.paths import RunDir, step_name

MAX_RECORD_BYTES = 64 * 2**20
_STATE, _RECORD = ".state", ".json"
_NAME = re.compile(r"step_[0-9]{7,}\.[0-9]+\.[0-9a-f]{32}")
_CHUNK_BYTES = 16 * 2**20


class SnapshotRecord(Record):
    """Description of a rank's share of the state after a step."""

    step: Count
    attempt: Count
    start: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Name of the start that reached the state, equal on all of its ranks."""
    optimizer_steps: tuple[Count, ...]
    """Updates that each parameter group of the optimizer has counted."""
    manifest: Manifest | None = None
    """Manifest of a checkpoint of the state; its parent is the checkpoint from which training went on. Only written by
    the first rank."""
    parent_saved_at: AwareDatetime | None = None
    """Time at which that parent was saved. It distinguishes it from one of the same step of an earlier run in the
    directory."""
    num_bytes: Count = 0
    xxh3: str = ""

    @property
    def name(self) -> str:
        """Equal on all ranks, and different from every other snapshot."""
        return f"{step_name(self.step)}.{self.attempt}.{self.start}"


@dataclass(frozen=True)
class NodeFolder:
    """The folder of one rank's snapshots."""

    path: Path

    @staticmethod
    def of_rank(root: Path, run_dir: RunDir, rank: int) -> NodeFolder:
        """Return the folder of a rank of a run, below the folder that the configuration names."""
        run = xxhash.xxh3_64_hexdigest(str(run_dir.root.resolve()).encode())
        return NodeFolder(root / f"harness-{os.geteuid()}" / run / f"rank_{rank:05d}")

    def make(self) -> None:
        """Make the folder, closed to other users.

        Raises:
            OSError: It cannot be made, or is another user's.
        """
        rank, run, user = self.path, self.path.parent, self.path.parent.parent
        user.parent.mkdir(parents=True, exist_ok=True)
        for folder in (user, run, rank):
            folder.mkdir(mode=0o700, exist_ok=True)
            _require_own(folder)

    def write(self, record: SnapshotRecord, tensors: Iterable[torch.Tensor]) -> None:
        """Write a snapshot.

        Raises:
            OSError: The disk refuses. What was written of it is removed.
        """
        digest, num_bytes = xxhash.xxh3_64(), 0
        try:
            with replacing(self._state(record.name), durable=False) as file:
                for tensor in tensors:
                    content = _bytes_of(tensor)
                    digest.update(content)
                    num_bytes += len(content)
                    file.write(content)
            whole = record.model_copy(update={"num_bytes": num_bytes, "xxh3": digest.hexdigest()})
            replace_file(self._record(record.name), whole.model_dump_json(by_alias=True), durable=False)
        except OSError:
            self._remove(record.name)
            raise

    def records(self) -> list[SnapshotRecord]:
        """Return the descriptions of the finished snapshots, newest first; none if others can access the folder."""
        found = []
        with suppress(OSError):
            _require_own(self.path)
            for path in self.path.iterdir():
                if path.suffix == _RECORD and _NAME.fullmatch(path.stem) and (record := _parsed(path)) is not None:
                    found.append(record)
        return sorted(found, key=lambda record: (record.attempt, record.step), reverse=True)

    def is_whole(self, record: SnapshotRecord) -> bool:
        """Return whether the bytes are the written ones. Reads all of them."""
        digest, num_bytes = xxhash.xxh3_64(), 0
        try:
            with os.fdopen(open_regular(self._state(record.name)), "rb", buffering=0) as file:
                while content := file.read(_CHUNK_BYTES):
                    digest.update(content)
                    num_bytes += len(content)
        except OSError:
            return False
        return (num_bytes, digest.hexdigest()) == (record.num_bytes, record.xxh3)

    def read(self, record: SnapshotRecord, like: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the tensors of a snapshot, in the host's memory, with the shapes and types of `like` in its order.

        Raises:
            OSError: It cannot be read, or is not of their size.
        """
        found = tuple(torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in like)
        with os.fdopen(open_regular(self._state(record.name)), "rb") as file:
            for tensor in found:
                content = _bytes_of(tensor)
                if file.readinto(content) != len(content):
                    raise OSError(errno.EIO, "it ends too early", file.name)
            if file.read(1):
                raise OSError(errno.EIO, "it holds more than this rank does", file.name)
        return found

    def keep(self, names: Collection[str]) -> None:
        """Remove everything except these snapshots, as far as the disk allows."""
        with suppress(OSError):
            for path in self.path.iterdir():
                if path.suffix not in (_STATE, _RECORD) or path.stem not in names:
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and its empty parents, as far as the disk allows."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in (self.path.parent, self.path.parent.parent):
            with suppress(OSError):
                folder.rmdir()

    def _state(self, name: str) -> Path:
        return self.path / f"{name}{_STATE}"

    def _record(self, name: str) -> Path:
        return self.path / f"{name}{_RECORD}"

    def _remove(self, name: str) -> None:
        for path in (self._record(name), self._state(name)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _require_own(folder: Path) -> None:
    """Raise `OSError` if a folder is a link, another user's, or open to others."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(errno.EPERM, "it is not a folder that is closed to all but the user who trains", str(folder))


def _parsed(path: Path) -> SnapshotRecord | None:
    try:
        record = SnapshotRecord.model_validate_json(read_regular(path, MAX_RECORD_BYTES))
    except (OSError, ValidationError):
        return None
    return record if record.name == path.stem else None


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a tensor on the host, without a copy."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
