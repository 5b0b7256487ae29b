"""The watcher's heartbeat, `watch/heartbeat.json`, by which the run knows whether a watcher watches it."""

from __future__ import annotations

import json
import os
import socket
import time

from pydantic import BaseModel

from harness.run.field_types import Flag, Seconds
from harness.run.files import replace_file
from harness.run.own_file import is_own_file
from harness.run.paths import RunDir
from harness.run.small_files import read_if_valid

_MOST_SILENCE_S = 60.0
"""Clocks of two nodes differ, and a shared file system shows a file late."""


class _Beat(BaseModel):
    """The fields of the heartbeat that the run reads."""

    time: Seconds
    may_order: Flag = True


def write_watcher_beat(run_dir: RunDir, *, step: int, may_command: bool) -> None:
    """Write the heartbeat of this process, which watches the run.

    Raises:
        OSError: From the disk.
    """
    beat = {"time": round(time.time(), 3), "host": socket.gethostname(), "pid": os.getpid()}
    content = {**beat, "step": step, "may_order": may_command}
    replace_file(run_dir.watch_heartbeat, json.dumps(content) + "\n", durable=False)


def is_watched(run_dir: RunDir) -> bool:
    """Return whether a watcher of this user that may give commands has written its heartbeat within the last minute."""
    beat = read_if_valid(run_dir.watch_heartbeat, _Beat) if is_own_file(run_dir.watch_heartbeat) else None
    return beat is not None and beat.may_order and abs(time.time() - beat.time) <= _MOST_SILENCE_S
