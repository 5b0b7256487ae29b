"""Checks the surroundings of a run: is the disk nearly full?"""

from __future__ import annotations

import shutil

from harness.config.operation import WatchConfig
from harness.run.paths import RunDir

_GIB = 1024**3


def shortage(run_dir: RunDir, watch: WatchConfig) -> str | None:
    """Return an alert text if the file system of the run is nearly full."""
    try:
        free_gib = shutil.disk_usage(run_dir.root).free / _GIB
    except OSError:
        return None
    if free_gib >= watch.least_free_gib:
        return None
    return (
        f"only {free_gib:,.1f} GiB are free in {run_dir.root}, less than watch.least_free_gib {watch.least_free_gib:g}"
    )
