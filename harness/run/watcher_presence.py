"""The watcher's heartbeat, `watch/heartbeat.json`, by which the run knows whether a watcher watches it."""

from __future__ import annotations

import json
import os
import socket
import time

from harness.json_text import parse_json
from harness.run.files import replace_file
from harness.run.own_file import is_own_file
from harness.run.paths import RunDir

_MOST_SILENCE_S = 60.0
"""Clocks of two nodes differ, and a shared file system shows a file late."""


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
    if not is_own_file(run_dir.watch_heartbeat):
        return False
    try:
        beat = parse_json(run_dir.watch_heartbeat.read_bytes())
        return bool(beat.get("may_order", True)) and abs(time.time() - float(beat["time"])) <= _MOST_SILENCE_S
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
