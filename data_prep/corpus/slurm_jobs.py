"""Runs a job on Slurm: tasks that are not done are submitted once, and later calls report their progress."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.corpus.config import ExecutorConfig
from data_prep.corpus.jobs import Job, claimed, finish
from data_prep.corpus.stages import is_done, submit, submitted_jobs, tasks_done
from data_prep.text.file_kinds import STATE_FOLDER
from data_prep.text.text_files import FileReport
from harness.errors import DataError, UsageError

SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class SlurmProgress:
    """The progress of a job in the queue."""

    reports: list[FileReport] | None
    """Set when all is done."""
    jobs: tuple[str, ...]
    """Numbers of the jobs that are queued or running."""
    tasks_done: int
    tasks: int
    submitted: bool
    """This call submitted the jobs."""


def advance_on_slurm(job: Job, config: ExecutorConfig) -> SlurmProgress:
    """Check how far a job is; submit what is neither done nor in the queue.

    Raises:
        HarnessError: Slurm does not take the jobs; the folder holds something else.
    """
    with claimed(job) as held:
        for phase in job.phases if not job.is_finished() else ():
            stages = phase()
            if is_done(job.output, stages):
                continue
            done, total = sum(len(tasks_done(job.output, stage)) for stage in stages), sum(s.tasks for s in stages)
            waiting = jobs_in_queue(submitted_jobs(job.output))
            if waiting:
                return SlurmProgress(None, tuple(waiting), done, total, submitted=False)
            return SlurmProgress(None, tuple(submit(job.output, stages, config)), done, total, submitted=True)
        return SlurmProgress(finish(job, held), (), 0, 0, submitted=False)


def wait_on_slurm(job: Job, config: ExecutorConfig, report: Callable[[SlurmProgress], None]) -> list[FileReport]:
    """Wait until a job has finished; submit its later phases on the way.

    Raises:
        DataError: The jobs have left the queue, and tasks are not done.
    """
    done_when_submitted = -1
    while True:
        progress = advance_on_slurm(job, config)
        if progress.reports is not None:
            return progress.reports
        if progress.submitted:
            if progress.tasks_done == done_when_submitted:
                raise unfinished(job, progress)
            done_when_submitted = progress.tasks_done
            report(progress)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def unfinished(job: Job, progress: SlurmProgress) -> DataError:
    """Return the error about jobs that have left the queue without having done anything."""
    return DataError(
        f"{job.output}: the jobs have ended, but only {progress.tasks_done} of {progress.tasks} tasks are done; they "
        f"were submitted again as {', '.join(progress.jobs)}. The logs are in the folders under "
        f"{job.output / STATE_FOLDER}."
    )


def jobs_in_queue(jobs: Sequence[str]) -> list[str]:
    """Return which of these Slurm jobs wait or run."""
    if not jobs:
        return []
    command = ("squeue", "--noheader", "--me", "--format=%F")
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"squeue does not answer ({error}). Run this where Slurm's commands work.") from error
    return [job for job in jobs if job in shown.split()]
