"""Ordering as a stage of a corpus: one task that rewrites a source in its order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_prep.corpus.config import SourceConfig
from data_prep.corpus.jobs import Job, reading_of
from data_prep.corpus.outcome import REPORT
from data_prep.corpus.stages import Stage
from data_prep.text.input_files import InputFile, file_bytes
from data_prep.text.order_files import OrderJob, order_files
from data_prep.text.text_files import FileReport
from harness.run.files import replace_file

NAME = "ordered"
"""The whole source, in the report."""


class OrderFiles(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Puts the documents of all files in order."""

    type = "ORDER"
    name = "order"

    def __init__(self, job: OrderJob) -> None:
        super().__init__()
        self.job = job

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[object]:
        """See datatrove's `PipelineStep`."""
        result = order_files(self.job)
        report = FileReport(
            file=NAME,
            input=f"{len(self.job.files)} files, ordered by {self.job.by}",
            input_bytes=sum(map(file_bytes, self.job.files)),
            documents=result.documents + result.rejected,
            kept=result.documents,
            characters=result.characters,
            kept_characters=result.characters,
            dropped={"not a document": result.rejected} if result.rejected else {},
        )
        content = json.dumps(asdict(report), ensure_ascii=False)
        replace_file(self.job.folder / (NAME + REPORT), content.encode() + b"\n")
        return iter(())


def order_job(name: str, source: SourceConfig, files: Sequence[InputFile], output: Path) -> Job:
    """Puts a source in order."""
    config = source.order
    work = OrderJob(
        files=files,
        folder=output,
        by=config.by,
        text_key=source.text_key,
        score_key=config.score_key,
        descending=config.descending,
        seed=config.seed,
    )
    reading = replace(reading_of(list(files), output, source, 1), names=(NAME,))
    return Job(
        title=f"order {name}",
        output=output,
        reading=reading,
        phases=(lambda: [Stage("order", (OrderFiles(work),), 1, (sum(reading.sizes),))],),
        num_readings=1,
        folders=(output,),
        steps=("order",),
        settings={"order": config.model_dump()},
    )
