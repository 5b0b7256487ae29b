"""The watcher's heartbeat, `watch/heartbeat.json`, by which the run knows whether a watcher watches it."""

from __future__ import annotations

import json
import os
import socket
import time

from pydantic import BaseModel

from harness.run.field_types import Count, Flag, Seconds, Text
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
    host: Text = "?"
    pid: Count = 0
    has_left: Flag = False


def write_watcher_beat(run_dir: RunDir, *, step: int, may_command: bool, has_left: bool = False) -> None:
    """Write the heartbeat of this process, which watches the run, or its last one.

    Raises:
        OSError: From the disk.
    """
    beat = {"time": round(time.time(), 3), "host": socket.gethostname(), "pid": os.getpid()}
    content = {**beat, "step": step, "may_order": may_command, "has_left": has_left}
    replace_file(run_dir.watch_heartbeat, json.dumps(content) + "\n", durable=False)


def is_watched(run_dir: RunDir) -> bool:
    """Return whether a watcher of this user that may give commands has written its heartbeat within the last minute."""
    return _own_beat(run_dir) is not None


def watcher_text(run_dir: RunDir, now: float, *, is_wanted: bool) -> str | None:
    """Return in words whether a watcher watches the run; None if it need not, and none does."""
    beat = read_if_valid(run_dir.watch_heartbeat, _Beat)
    if beat is None:
        return "none: nobody watches for spikes and hangs" if is_wanted else None
    age_s = max(0.0, now - beat.time)
    if beat.has_left:
        return f"none: the last one, on {beat.host}, left {age_s:.0f} s ago" if is_wanted else None
    if age_s <= _MOST_SILENCE_S:
        only = "" if beat.may_order else ", and only looks: it gives no commands and tells nobody"
        return f"process {beat.pid} on {beat.host} looked {age_s:.0f} s ago{only}"
    return f"none: the last one, on {beat.host}, has been silent for {age_s:.0f} s" if is_wanted else None


def is_watched_elsewhere(run_dir: RunDir) -> str | None:
    """Return in words who watches the run now and may give commands, if that is another process; None if nobody does.

    One that was killed wrote its last heartbeat at most a minute ago: then the next look finds nobody.
    """
    beat = _own_beat(run_dir)
    if beat is None or (beat.host, beat.pid) == (socket.gethostname(), os.getpid()):
        return None
    return f"process {beat.pid} on {beat.host}"


def _own_beat(run_dir: RunDir) -> _Beat | None:
    """Return the fresh heartbeat of a watcher of this user that may give commands; None without one."""
    beat = read_if_valid(run_dir.watch_heartbeat, _Beat) if is_own_file(run_dir.watch_heartbeat) else None
    is_fresh = (
        beat is not None and not beat.has_left and beat.may_order and abs(time.time() - beat.time) <= _MOST_SILENCE_S
    )
    return beat if is_fresh else None
