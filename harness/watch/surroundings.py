"""Checks the surroundings of a run: is something still recorded, and is the disk nearly full?"""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from harness.config.operation import WatchConfig
from harness.run.heartbeats import Beat, active_beats, read_beats
from harness.run.lock import owner_of
from harness.run.paths import RunDir
from harness.text import listed

_GIB = 1024**3


def stall(run_dir: RunDir, watch: WatchConfig, idle_s: float) -> str | None:
    """Return an alert text if nothing has been recorded for too long although the run has not left."""
    if idle_s < watch.stalled_after_s:
        return None
    if owner_of(run_dir) is None:
        return f"nothing has been recorded for {idle_s:.0f} s, and nobody seems to train: was the job killed?"
    return f"nothing has been recorded for {idle_s:.0f} s though the run is alive; {_behind(read_beats(run_dir))}"


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


def _behind(beats: Iterable[Beat]) -> str:
    """Return the ranks with the least progress, in words: all others wait for them."""
    active = active_beats(beats)
    if not active:
        return "no rank has given a sign of life"
    least = min(beat.position for beat in active)
    places = [f"rank {beat.rank} on {beat.host} in {beat.activity}" for beat in active if beat.position == least]
    return f"behind at step {least[0]}: {listed(places)}"
