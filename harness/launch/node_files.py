"""Gathers what the ranks of a node leave in its memory: one file a node on the shared disk, however many ranks it has.

The ranks write into a folder there:

```
rank_00024.json             their heartbeats (`HARNESS_HEARTBEATS`)
flight_recorder/rank_24     their last collectives, by torch (`TORCH_FR_DUMP_TEMP_FILE`), after a hang or on request
```

The launcher copies them every few seconds:

```
RUN/heartbeats/node_00003.json                    {"host": "node07", "time": 1700000004.4, "ranks": [{"rank": 24, …} …]}
RUN/launches/0001/flight_recorder/node_00003.tar  rank_24, rank_25 …
```

A rank that no launcher of ours has started (torchrun, srun) writes its own file there.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.launch.collectives_dump import FLIGHT_RECORDER, node_dumps
from harness.parallel.environment import COLLECTIVES_DUMP, HEARTBEATS, collectives_dump
from harness.run.files import replace_file
from harness.run.heartbeats import WRITE_EVERY_S
from harness.run.paths import RunDir
from harness.run.small_files import read_json_file

_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
_FOLDER = "harness-node-{user}-{process}-"
_NAME = re.compile(r"harness-(?:node|heartbeats)-([0-9]+)-([0-9]+)-.*")


class NodeFiles:
    """Gathers what the ranks of this node write, while `gathering` is entered."""

    def __init__(self, run_dir: RunDir, launch: Path, index: int, folder: Path | None) -> None:
        """Take the number of the node, and the folder its ranks write to; without one, each writes files of its own."""
        self._heartbeats = run_dir.node_heartbeats(index)
        self._dumps = node_dumps(launch, index)
        self._folder = folder
        self._dumped: list[tuple[str, int, int]] = []
        self._ended = threading.Event()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the ranks know where to write."""
        if self._folder is None:
            return {HEARTBEATS: ""}
        chosen = collectives_dump()  # by the environment file of the job
        return {HEARTBEATS: str(self._folder), COLLECTIVES_DUMP: chosen or f"{self._folder}/{FLIGHT_RECORDER}/rank_"}

    def dump_of(self, rank: int) -> Path | None:
        """Return the file of a rank's last collectives before it is gathered; None where that is not known."""
        prefix = self.environment.get(COLLECTIVES_DUMP)
        return None if prefix is None else Path(f"{prefix}{rank}")

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Copy what changed every few seconds during the `with` block, and once at its end."""
        if self._folder is None:
            yield
            return
        thread = threading.Thread(target=self._run, args=(self._folder,), name="node-files", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(timeout=WRITE_EVERY_S)

    def _run(self, folder: Path) -> None:
        while True:
            ended = self._ended.is_set()
            with suppress(OSError):  # the file goes stale; training goes on
                self._copy_heartbeats(folder)
            with suppress(OSError):
                self._copy_dumps(folder / FLIGHT_RECORDER)
            if ended:
                return
            self._ended.wait(WRITE_EVERY_S)

    def _copy_heartbeats(self, folder: Path) -> None:
        beats = []
        for path in sorted(folder.glob("rank_*.json")):
            with suppress(OSError, ValueError):
                beats.append(read_json_file(path))
        if not beats:
            return
        self._heartbeats.parent.mkdir(exist_ok=True)
        content = {"host": socket.gethostname(), "time": round(time.time(), 3), "ranks": beats}
        replace_file(self._heartbeats, json.dumps(content) + "\n", durable=False)

    def _copy_dumps(self, folder: Path) -> None:
        """Put the dumps of this node into one archive, again whenever torch has written to one of them."""
        found = [(path, path.stat()) for path in sorted(folder.glob("rank_*"))]
        state = [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]
        if state == self._dumped:
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for path, _ in found:
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        self._dumps.parent.mkdir(exist_ok=True)
        replace_file(self._dumps, packed.getvalue(), durable=False)
        self._dumped = state


@contextmanager
def node_files(run_dir: RunDir, launch: Path, index: int) -> Iterator[NodeFiles]:
    """Yield what gathers the files of node `index`; remove its folder, and those of dead launchers, at the end.

    If no folder can be made on this node, nothing is gathered.
    """
    root = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    prefix = _FOLDER.format(user=os.geteuid(), process=os.getpid())
    folder = None
    with suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        (folder / FLIGHT_RECORDER).mkdir()
    try:
        yield NodeFiles(run_dir, launch, index, folder)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_left_over(root)


def _remove_left_over(root: Path) -> None:
    """Remove folders of this user's launchers that were killed. One that still lives makes its folder anew."""
    with suppress(OSError):
        for path in root.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) == os.geteuid() and not Path(f"/proc/{match[2]}").exists():
                shutil.rmtree(path, ignore_errors=True)
