"""An order to kill a launch that hears no orders any more: a file in its folder, for which its launchers look.

`launches/0003/kill.json`: `{"reason": "…", "time": 1700000000.0}`. It is about that launch alone, so a later one is not
killed by it, and it works on every node that sees the run's directory, whether or not Slurm's commands are there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

_NAME = "kill.json"


def order_kill(launch: Path, reason: str) -> bool:
    """Orders that all workers of the launch in this folder are killed; False if that was ordered before.

    Raises:
        OSError: The file cannot be written.
    """
    order = launch / _NAME
    if order.exists():
        return False
    written = launch / f"{_NAME}.tmp"
    written.write_text(json.dumps({"reason": reason, "time": round(time.time(), 3)}) + "\n")
    written.rename(order)
    return True


def kill_reason(launch: Path) -> str | None:
    """Why the launch in this folder is to be killed; None if it is not."""
    try:
        return str(json.loads((launch / _NAME).read_bytes())["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):  # an order that cannot be read is one all the same
        return "ordered, but the reason cannot be read"
