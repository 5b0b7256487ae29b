"""Removes what old launches left by the node: logs, stacks, dumps. What happened, and why, is kept of every launch."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress

from harness.run.paths import RunDir

_OF_NODES = re.compile(
    r"node_[0-9]+\.(log|json)|bad_node_[0-9]+\.json|stacks_node_[0-9]+\.txt|flight_recorder"
    r"|rank_[0-9]+\.log|stacks_rank_[0-9]+\.txt|nccl\..*\.log"  # by earlier versions
)


def remove_old_logs(run_dir: RunDir, keep: int) -> None:
    """Remove the files of nodes of all launches but the newest `keep`. What cannot be removed stays.

    A launch on a thousand nodes leaves thousands of files, and a job comes back a hundred times.
    """
    with suppress(OSError):
        for number in run_dir.launch_numbers()[:-keep]:
            for path in run_dir.launch(number).iterdir():
                if not _OF_NODES.fullmatch(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
