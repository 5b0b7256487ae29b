"""The facts about a run from which its state follows, read from its folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.run.event_types import Exit
from harness.run.events import kinds_of, last_event
from harness.run.heartbeats import Beat, active_beats, read_beats
from harness.run.launches import LaunchRecord, launches, node_ends
from harness.run.lines import last_lines
from harness.run.lock import Owner, owner_of
from harness.run.paths import RunDir
from harness.run.records import StepRecord, from_json_line
from harness.run_state.slurm_job import Ask, SlurmJob

_TAIL_BYTES = 256 * 1024
_OTHER_CLOCK_S = 2.0
"""The file system's clock, which dates launches, may be ahead of that of the ranks."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The word of a run's files, and of Slurm, about it at one moment."""

    now: float
    """Seconds since 1970."""
    newest: LaunchRecord
    """The newest submission or launch."""
    started: LaunchRecord | None
    """The newest launch that has started."""
    num_starts: int = 0
    """Launches of the job of the newest one that have started."""
    owner: Owner | None = None
    """The holder of the run's lock."""
    beats: tuple[Beat, ...] = ()
    """Heartbeats of the ranks of the newest started launch, without those that have left."""
    have_left: bool = False
    """True if all ranks that ever gave a sign of life in that launch have left."""
    have_nodes_ended: bool = False
    """True if launchers of that launch have written down how their workers ended."""
    exit: Exit | None = None
    """The trainer's last word in that launch."""
    records: tuple[StepRecord, ...] = ()
    """The last lines of the metrics."""
    slurm: SlurmJob | None = None
    """The job of the newest submission or launch, as Slurm knows it; None if Slurm was not asked, or gave no answer."""

    @property
    def are_ranks_alive(self) -> bool:
        """Return whether a process holds the run, or a rank has just given a sign of life."""
        return self.owner is not None or any(not beat.is_quiet(self.now) for beat in self.beats)

    @property
    def usual_step_s(self) -> float | None:
        """Return the median time from one record to the next, that is of a step with everything that belongs to it.

        None without two records, or where a clock went back.
        """
        gaps = [
            later.time - earlier.time
            for earlier, later in zip(self.records, self.records[1:], strict=False)
            if (later.attempt, later.step) == (earlier.attempt, earlier.step + 1)
        ]
        return usual if gaps and (usual := median(gaps)) > 0 else None

    @property
    def step_age_s(self) -> float | None:
        """Return the seconds since the last step, or since the launch began if that was later; None without a step."""
        if not self.records:
            return None
        last = self.records[-1].time
        begun = self.started.begun if self.started is not None else last
        return max(0.0, self.now - max(last, begun))


def gather(run_dir: RunDir, ask: Ask, now: float | None = None) -> Facts | None:
    """Return the facts about a run; None if nothing was launched there.

    Slurm is asked only about a job of which the files do not show that it trains.

    Raises:
        UsageError: The folder of its launches cannot be read.
        OSError: Its lock cannot be read.
    """
    known = launches(run_dir)
    if not known:
        return None
    started = next((record for record in reversed(known) if record.launch is not None), None)
    owner = owner_of(run_dir)
    now = time.time() if now is None else now
    of_launch = [] if started is None else _beats_of(run_dir, started)
    beats = tuple(active_beats(of_launch))
    is_alive = owner is not None or any(not beat.is_quiet(now) for beat in beats)
    job_id = known[-1].job_id
    return Facts(
        now=now,
        newest=known[-1],
        started=started,
        num_starts=sum(record.launch is not None and record.job_id == job_id for record in known),
        owner=owner,
        beats=beats,
        have_left=bool(of_launch) and not beats,
        have_nodes_ended=started is not None and bool(node_ends(started.folder)),
        exit=None if started is None else _exit_of(run_dir, started),
        records=_last_records(run_dir),
        slurm=ask(job_id) if job_id is not None and not is_alive else None,
    )


def _beats_of(run_dir: RunDir, launch: LaunchRecord) -> list[Beat]:
    """Return the last heartbeats of the ranks of a launch. Earlier launches leave files of the same names behind."""
    begun = launch.begun - _OTHER_CLOCK_S
    return [beat for beat in read_beats(run_dir) if beat.time >= begun]


def _exit_of(run_dir: RunDir, launch: LaunchRecord) -> Exit | None:
    last = last_event(run_dir.events, kinds_of(Exit))
    is_of_it = isinstance(last, Exit) and last.time >= launch.begun - _OTHER_CLOCK_S
    return last if is_of_it and isinstance(last, Exit) else None


def _last_records(run_dir: RunDir) -> tuple[StepRecord, ...]:
    lines: Sequence[bytes] = last_lines(run_dir.metrics, _TAIL_BYTES)
    return tuple(record for line in lines if (record := from_json_line(line)))
