"""A source on its way from raw files to its channel, step by step, as far as a call gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal

from data_prep.corpus.carried import carrying
from data_prep.corpus.config import ExecutorConfig
from data_prep.corpus.jobs import Job, run_job
from data_prep.corpus.run_corpus import tell_progress
from data_prep.corpus.slurm_jobs import advance_on_slurm, unfinished
from data_prep.prepare.channel_work import ChannelWork
from data_prep.prepare.steps import (
    Corpus,
    State,
    Step,
    channel_job,
    channel_state,
    channel_work,
    state_of,
    text_job,
    written_files,
)
from data_prep.prepare.taking_away import make_room, make_room_for_channel
from data_prep.prepare.tokenizing import for_tokenizing, tokenize_here
from data_prep.text.input_file import InputFile
from data_prep.text.set_aside import discard_aside
from data_prep.text.text_files import FileReport
from harness.progress import shown
from harness.screen import Screen


@dataclass(frozen=True)
class Done:
    """A step of a source, when a call is done with it."""

    source: str
    step: Step
    outcome: Literal["done", "up to date", "waiting"]
    job: Job
    reports: list[FileReport]
    work: ChannelWork | None = None
    """Of a channel."""


@dataclass
class SourceRun:
    """A source, and the steps that are left of it."""

    corpus: Corpus
    executor: ExecutorConfig
    name: str
    steps: list[Step]
    files: list[InputFile]
    """Input of the next step."""
    done: list[Done] = field(default_factory=list)
    _open: Done | None = None
    """The step that Slurm is at."""
    _tasks_done: int = -1
    """Tasks that were done when its jobs were submitted last."""

    def advance(self) -> bool:
        """Go as far as possible without waiting; return whether all steps are done.

        Raises:
            HarnessError: A step fails, or may not be done.
        """
        while self.steps:
            current = self._open or self._begun(self.steps[0])
            if current.outcome == "waiting":
                self._open = current
                reports = self._executed(current)
                if reports is None:
                    return False
                current = Done(self.name, current.step, "done", current.job, reports, current.work)
            discard_aside(current.job.output)
            if current.work:
                discard_aside(current.work.folder)
            self.done.append(current)
            self.files = [] if current.work else written_files(current.job.output)
            self._open, self._tasks_done = None, -1
            self.steps.pop(0)
        return True

    @property
    def waits_for(self) -> Done | None:
        """The step that Slurm is at."""
        return self._open

    def _begun(self, step: Step) -> Done:
        """Look at a step, and give it its folder if something is to be done."""
        work: ChannelWork | None = None
        if step == "tokenize":
            work = channel_work(self.corpus, self.name, self.files)
            job, state = channel_job(self.corpus, self.name, work), channel_state(work)
            if state.kind != "up to date":
                make_room_for_channel(self.corpus, work, job, state)
        else:
            job = text_job(self.corpus, self.name, step, self.files)
            state = state_of(job)
            make_room(job, step, state, [self.corpus.folder(self.name, later) for later in self.steps[1:]])
            job = carrying(job) if step == "clean" and not _is_there(state) else job
        return Done(self.name, step, "up to date" if _is_there(state) else "waiting", job, [], work)

    def _executed(self, current: Done) -> list[FileReport] | None:
        """Run a step; None if it has not ended, because Slurm is at it."""
        job, work = current.job, current.work
        if self.executor.kind == "slurm":
            return self._on_slurm(job, for_tokenizing(self.executor) if work else self.executor)
        if work and self.executor.kind == "local":
            return tokenize_here(job, work)
        # The stream is taken now, because tasks in this process may replace it for a while.
        with shown(job.title, job.bytes_to_read, Screen(file=sys.stderr)) as progress:
            return run_job(job, self.executor, progress)

    def _on_slurm(self, job: Job, executor: ExecutorConfig) -> list[FileReport] | None:
        progress = advance_on_slurm(job, executor)
        if progress.reports is not None:
            return progress.reports
        if progress.submitted and progress.tasks_done == self._tasks_done:
            raise unfinished(job, progress)
        if progress.submitted or self._tasks_done < 0:
            tell_progress(job, progress)
            self._tasks_done = progress.tasks_done
        return None


def _is_there(state: State) -> bool:
    return state.kind in ("up to date", "to put back")
