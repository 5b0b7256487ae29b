"""Tells the run whether a watcher watches it."""

from __future__ import annotations

import json
import time

from harness.run.paths import RunDir

_MOST_SILENCE_S = 60.0
"""Clocks of two nodes differ, and a shared file system shows a file late."""


def is_watched(run_dir: RunDir) -> bool:
    """Return whether a watcher that may give commands has written its heartbeat within the last minute."""
    try:
        beat = json.loads((run_dir.watch / "heartbeat.json").read_bytes())
        return bool(beat.get("may_order", True)) and abs(time.time() - float(beat["time"])) <= _MOST_SILENCE_S
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
