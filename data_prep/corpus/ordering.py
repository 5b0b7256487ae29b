"""Ordering as a stage of a corpus: one task that rewrites a source in its order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_prep.corpus.config import SourceConfig
from data_prep.corpus.jobs import Job, reading_of
from data_prep.corpus.outcome import write_report
from data_prep.corpus.stages import Stage
from data_prep.text.file_hashes import hash_of_file
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.order_files import OrderJob, order_files
from data_prep.text.text_files import FileReport

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
        left_out = {"empty": result.empty, "not a document": result.rejected}
        report = FileReport(
            file=NAME,
            input=f"{len(self.job.files)} files, ordered by {self.job.by}",
            input_bytes=sum(map(file_bytes, self.job.files)),
            documents=result.documents + result.rejected + result.empty,
            kept=result.documents,
            characters=result.characters,
            kept_characters=result.characters,
            dropped={reason: count for reason, count in left_out.items() if count},
            written={name: (self.job.folder / name).stat().st_size for name in result.files},
            hashes={name: hash_of_file(self.job.folder / name) for name in result.files},
        )
        write_report(self.job.folder, report)
        return iter(())


def order_job(source: SourceConfig, files: list[InputFile], output: Path) -> Job:
    """Put a source in order."""
    settings = source.order.model_dump()
    work = OrderJob(files=files, folder=output, text_key=source.text_key, **settings)
    reading = replace(reading_of(files, output, source, 1), names=(NAME,))
    return Job(
        title=f"order {output.name}",
        output=output,
        reading=reading,
        phases=(lambda: [Stage("order", (OrderFiles(work),), 1, (sum(reading.sizes),))],),
        num_readings=1,
        folders=(output,),
        steps=("order",),
        settings={"order": settings},
    )
