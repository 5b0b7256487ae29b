"""Requests to the launchers of one launch: files in its folder, for which they look.

`launches/0003/kill.json` asks them to kill a launch that no longer reacts to commands: `{"reason": "…", "time":
1700000000.0}`. It is about that launch alone, so a later one is not killed by it, and it works on every node that sees
the run's directory, whether or not Slurm's commands are there.

`launches/0003/stacks.request`, an empty file, asks for the stacks of the workers. Its time of change distinguishes it
from an earlier request. It does the workers no harm. The launchers answer it, because workers that hang cannot.

Both count only as files of the user whose launch it is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from harness.json_text import parse_json
from harness.run.files import replace_file
from harness.run.own_file import RefusedFileError, is_own_file, read_own_file

_MOST_BYTES = 64 * 1024
_KILL = "kill.json"
_STACKS = "stacks.request"


def request_kill(launch: Path, reason: str) -> bool:
    """Ask the launchers of the launch in this folder to kill all its workers; return False if this was asked before.

    Raises:
        OSError: The file cannot be written.
    """
    request = launch / _KILL
    if is_own_file(request):
        return False
    replace_file(request, json.dumps({"reason": reason, "time": round(time.time(), 3)}) + "\n", durable=False)
    return True


def kill_reason(launch: Path) -> str | None:
    """Return the reason for which the launch in this folder is to be killed, or None.

    A request of another user is none. One of this user that is damaged is a request all the same.
    """
    try:
        content, _ = read_own_file(launch / _KILL, max_bytes=_MOST_BYTES)
    except (OSError, RefusedFileError):
        return None
    try:
        return str(parse_json(content)["reason"])
    except (ValueError, TypeError, KeyError):
        return "requested, but the reason cannot be read"


def request_stacks(launch: Path) -> float:
    """Ask the launchers of this launch for the stacks of its workers; return the time of the request, since 1970.

    Raises:
        OSError: The file cannot be written.
    """
    request = launch / _STACKS
    replace_file(request, "", durable=False)
    return request.lstat().st_mtime


def stacks_requested(launch: Path) -> float | None:
    """Return the time of the last request for stacks by this user in seconds since 1970, or None."""
    request = launch / _STACKS
    try:
        return request.lstat().st_mtime if is_own_file(request) else None
    except OSError:
        return None
