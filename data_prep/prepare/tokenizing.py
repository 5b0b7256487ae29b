"""Tokenizing as a step of a corpus: one task, whose folder keeps its record, its logs and its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_prep.corpus.config import ExecutorConfig, SourceConfig
from data_prep.corpus.jobs import Job, claimed, finish, reading_of
from data_prep.corpus.outcome import write_report
from data_prep.corpus.stages import Stage
from data_prep.prepare.channel_work import ChannelWork, make_channel
from data_prep.text.input_file import file_bytes
from data_prep.text.text_files import FileReport

NAME = "channel"
"""The whole source, in the report."""


class MakeChannel(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Makes the channel of a source."""

    type = "TOKENIZE"
    name = "tokenize"

    def __init__(self, work: ChannelWork, output: Path) -> None:
        super().__init__()
        self.work = work
        self.output = output

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """See datatrove's `PipelineStep`."""
        report_channel(self.work, self.output)
        return iter(())


def report_channel(work: ChannelWork, output: Path) -> None:
    """Make a channel, and write its report into the folder of the step.

    Raises:
        HarnessError: See `make_channel`.
    """
    totals = make_channel(work)
    left_out = {"not a document": totals.rejected, "empty": totals.empty, "too long": totals.dropped}
    report = FileReport(
        file=NAME,
        input=f"{len(work.files)} files, tokenized into {work.folder}",
        input_bytes=sum(map(file_bytes, work.files)),
        documents=totals.lines,
        kept=totals.documents - totals.dropped,
        characters=totals.characters,
        kept_characters=totals.characters,
        dropped={reason: count for reason, count in left_out.items() if count},
    )
    write_report(output, report)


def tokenize_job(source: SourceConfig, work: ChannelWork, output: Path) -> Job:
    """Tokenize a source."""
    reading = replace(reading_of(list(work.files), output, source, 1), names=(NAME,))
    return Job(
        title=work.title,
        output=output,
        reading=reading,
        phases=(lambda: [Stage("tokenize", (MakeChannel(work, output),), 1, (sum(reading.sizes),))],),
        num_readings=1,
        folders=(output,),
        steps=("tokenize",),
        settings=work.settings,
    )


def tokenize_here(job: Job, work: ChannelWork) -> list[FileReport]:
    """Run a job of tokenizing in this process, where its notes and its progress are seen.

    Raises:
        HarnessError: See `claimed` and `make_channel`.
    """
    with claimed(job) as held:
        if not job.is_finished():
            report_channel(work, job.output)
        return finish(job, held)


def for_tokenizing(executor: ExecutorConfig) -> ExecutorConfig:
    """Return the executor with as many cores as a task that tokenizes shall have."""
    slurm = executor.slurm
    if slurm is None or slurm.tokenize_cpus is None:
        return executor
    return executor.model_copy(update={"slurm": slurm.model_copy(update={"cpus_per_task": slurm.tokenize_cpus})})
