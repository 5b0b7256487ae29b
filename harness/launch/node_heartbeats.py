"""The heartbeats of a node, gathered by its launcher: one file a node on the shared disk, however many ranks it has.

The ranks replace their heartbeats in a folder in the node's memory (`HARNESS_HEARTBEATS`), and the launcher copies them
every few seconds into `<run>/heartbeats/node_00003.json`:

    {"host": "node07", "time": 1700000004.4, "ranks": [{"rank": 24, …}, {"rank": 25, …}]}

A rank that no launcher of ours has started (torchrun, srun) writes its own file there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.parallel.environment import HEARTBEATS
from harness.run.files import replace_file
from harness.run.heartbeats import WRITE_EVERY_S
from harness.run.paths import RunDir
from harness.run.small_files import read_json_file

_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
_FOLDER = "harness-heartbeats-{user}-{process}-"
_NAME = re.compile(r"harness-heartbeats-([0-9]+)-([0-9]+)-.*")


class NodeHeartbeats:
    """Gathers the heartbeats of the ranks of this node while `gathering` is entered."""

    def __init__(self, run_dir: RunDir, index: int, folder: Path | None) -> None:
        """Take the number of the node, and the folder of its ranks' heartbeats; without one, each writes its own."""
        self._path = run_dir.node_heartbeats(index)
        self._folder = folder
        self._ended = threading.Event()

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which the ranks know where to write."""
        return {HEARTBEATS: "" if self._folder is None else str(self._folder)}

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Copy the heartbeats every few seconds during the `with` block, and once at its end."""
        if self._folder is None:
            yield
            return
        thread = threading.Thread(target=self._run, args=(self._folder,), name="heartbeats", daemon=True)
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
                self._copy(folder)
            if ended:
                return
            self._ended.wait(WRITE_EVERY_S)

    def _copy(self, folder: Path) -> None:
        beats = []
        for path in sorted(folder.glob("rank_*.json")):
            with suppress(OSError, ValueError):
                beats.append(read_json_file(path))
        if not beats:
            return
        self._path.parent.mkdir(exist_ok=True)
        content = {"host": socket.gethostname(), "time": round(time.time(), 3), "ranks": beats}
        replace_file(self._path, json.dumps(content) + "\n", durable=False)


@contextmanager
def node_heartbeats(run_dir: RunDir, index: int) -> Iterator[NodeHeartbeats]:
    """Yield what gathers the heartbeats of node `index`; remove its folder, and those of dead launchers, at the end.

    If no folder can be made on this node, nothing is gathered.
    """
    root = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    prefix = _FOLDER.format(user=os.geteuid(), process=os.getpid())
    folder = None
    with suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        yield NodeHeartbeats(run_dir, index, folder)
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
