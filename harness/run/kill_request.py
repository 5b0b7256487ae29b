"""A request to kill a launch that no longer reacts to commands: a file in its folder, for which its launchers look.

`launches/0003/kill.json`: `{"reason": "…", "time": 1700000000.0}`. It is about that launch alone, so a later one is not
killed by it, and it works on every node that sees the run's directory, whether or not Slurm's commands are there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from harness.run.files import replace_file

_NAME = "kill.json"


def request_kill(launch: Path, reason: str) -> bool:
    """Ask the launchers of the launch in this folder to kill all its workers; return False if this was asked before.

    Raises:
        OSError: The file cannot be written.
    """
    request = launch / _NAME
    if request.exists():
        return False
    replace_file(request, json.dumps({"reason": reason, "time": round(time.time(), 3)}) + "\n", durable=False)
    return True


def kill_reason(launch: Path) -> str | None:
    """Return the reason for which the launch in this folder is to be killed, or None."""
    try:
        return str(json.loads((launch / _NAME).read_bytes())["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):  # an unreadable file is a request too
        return "requested, but the reason cannot be read"
