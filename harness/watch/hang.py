"""Detects a hanging launch: no rank has made progress for too long, by the watcher's own clock.

A rank that waits in a collective still writes heartbeats, and in a hang all wait for the ranks with the least progress.
So the rule is whether any rank enters another activity or another step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.run.heartbeats import Activity, Beat, active_beats, read_beats
from harness.run.launches import ENDED, LAUNCH, LaunchStart, read_own_launch_file
from harness.run.lock import owner_of
from harness.run.own_file import is_own_file
from harness.run.paths import RunDir
from harness.text import listed

LONG_FACTOR = 4.0
"""Factor on the time limit for activities that take long without any sign of progress."""
_LONG_ACTIVITIES = (Activity.START, Activity.LOAD, Activity.EVALUATE, Activity.SAVE)

Position = tuple[int, int, int, str, float]
"""Rank, process, step, activity, and the time at which that began."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The positions of a launch's ranks, and when they were last seen to change."""

    launch: Path
    positions: frozenset[Position]
    seen_at: float
    """Seconds on the watcher's clock."""


@dataclass(frozen=True, kw_only=True)
class Hang:
    """A launch that hangs."""

    launch: Path
    text: str
    """For people: the time without progress, and the ranks that the others wait for."""


def progress_of(launch: Path, beats: Sequence[Beat], before: Progress | None, clock_s: float) -> Progress:
    """Return the progress of a launch (pure); the previous one if nothing has changed."""
    positions = frozenset((beat.rank, beat.pid, beat.step, str(beat.activity), beat.since) for beat in beats)
    if before is not None and (before.launch, before.positions) == (launch, positions):
        return before
    return Progress(launch=launch, positions=positions, seen_at=clock_s)


def hang_of(progress: Progress, beats: Sequence[Beat], limit_s: float, *, clock_s: float, now: float) -> Hang | None:
    """Return the hang, if there is one (pure).

    `limit_s` is the time limit for an activity of a step, `clock_s` the time on the watcher's clock, and `now` in
    seconds since 1970.
    """
    active = active_beats(beats)
    idle_s = clock_s - progress.seen_at
    audible = [beat for beat in active if not beat.is_quiet(now)]  # a silent rank may have come further than it said
    is_long = any(beat.activity in _LONG_ACTIVITIES for beat in audible or active)
    if not active or idle_s < limit_s * (LONG_FACTOR if is_long else 1.0):
        return None
    return Hang(
        launch=progress.launch, text=f"no rank has made progress for {idle_s:.0f} s; {_waited_for(active, now)}"
    )


@dataclass
class HangWatch:
    """Checks repeatedly whether the newest launch of a run hangs."""

    run_dir: RunDir
    limit_s: float
    clock: Callable[[], float] = time.monotonic
    _progress: Progress | None = None

    def look(self) -> Hang | None:
        """Return the hang, if there is one in a launch whose processes still exist."""
        launch = newest_launch(self.run_dir)
        if launch is None or is_own_file(launch / ENDED):
            return None
        beats, clock_s, now = beats_of(self.run_dir, launch), self.clock(), time.time()
        self._progress = progress_of(launch, beats, self._progress, clock_s)
        hang = hang_of(self._progress, beats, self.limit_s, clock_s=clock_s, now=now)
        is_alive = any(not beat.is_quiet(now) for beat in beats) or owner_of(self.run_dir) is not None
        return hang if is_alive else None


def newest_launch(run_dir: RunDir) -> Path | None:
    """Return the folder of this user's launch that began last."""
    found = filter(is_own_file, run_dir.launches.glob(f"*/{LAUNCH}"))
    begun = (path.parent for path in found if path.parent.name.isdecimal())
    return max(begun, key=lambda folder: int(folder.name), default=None)


def beats_of(run_dir: RunDir, launch: Path) -> list[Beat]:
    """Return the last heartbeats of the ranks of this launch, as this user wrote them.

    Earlier launches leave files of the same names behind.
    """
    try:
        begun = (launch / LAUNCH).stat().st_mtime
    except OSError:
        return []
    start = read_own_launch_file(launch / LAUNCH, LaunchStart)
    num_ranks = None if start is None else start.world_size
    beats = [beat for beat in read_beats(run_dir, only_own=True) if beat.time >= begun]
    return [beat for beat in beats if num_ranks is None or beat.rank < num_ranks]


def _waited_for(active: Sequence[Beat], now: float) -> str:
    """Return the ranks that all others wait for, in words: silent ones, else those with the least progress."""
    quiet = [beat for beat in active if beat.is_quiet(now)]
    least = min(beat.position for beat in active)
    named = quiet or [beat for beat in active if beat.position == least]
    places = [f"rank {beat.rank} on {beat.host} (process {beat.pid})" for beat in named]
    word = "silent" if quiet else "least far"
    return f"{word} at step {named[0].step}, {named[0].activity}: {listed(places)}"
