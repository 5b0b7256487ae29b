"""Another process that holds the lock of a run, as a trainer does that somebody else has started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.run.paths import RunDir

_HOLD = """
import sys
from pathlib import Path
from harness.run.lock import RunLock
from harness.run.paths import RunDir
RunLock(RunDir(Path(sys.argv[1]))).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(run_dir: RunDir) -> Iterator[int]:
    """Gives the number of the process. The folder of the run must be there."""
    command = [sys.executable, "-c", _HOLD, str(run_dir.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
        holder.stdin.close()
