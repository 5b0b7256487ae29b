"""Steps of datatrove pipelines that read and write files as the rest of data preparation does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data_prep.corpus.outcome import Outcome
from data_prep.text.input_file import InputFile
from data_prep.text.read_documents import Rejection, read_records

ADDED, LANGUAGE = "added", "language"
"""Under these names a document carries keys to write into its record, and its language."""


def files_of_task(num_files: int, rank: int, world_size: int) -> range:
    """Return the numbers of the files that a task reads; tasks take the files in order."""
    return range(num_files * rank // world_size, num_files * (rank + 1) // world_size)


class ReadFiles(PipelineStep):  # type: ignore[misc] # datatrove has no types
    """Yields the documents of a task's files in order; with an outcome, every line of them is accounted for."""

    type = "READER"
    name = "text files"

    def __init__(self, files: Sequence[InputFile], text_key: str, outcome: Outcome | None = None) -> None:
        super().__init__()
        self.files = files
        self.text_key = text_key
        self.outcome = outcome
        self.done_before: frozenset[int] = frozenset()
        """Numbers of files that are not read, because an earlier result has them."""

    def run(self, data: object = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """See datatrove's `PipelineStep`."""
        for number in files_of_task(len(self.files), rank, world_size):
            if number in self.done_before:
                continue
            with self.outcome.file(number) if self.outcome else nullcontext():
                for record in read_records(self.files[number], self.text_key, whole_rows=self.outcome is not None):
                    if self.outcome and not self.outcome.read(record) or isinstance(record.content, Rejection):
                        continue
                    line = {"raw": record.raw, "original": record.content, "task": rank}
                    yield Document(text=record.content, id=f"{number}:{record.line}", metadata=line)
                    if self.outcome:
                        self.outcome.settle()


class KeepDocuments(PipelineStep):  # type: ignore[misc]
    """The end of a pipeline: what comes through is kept."""

    type = "WRITER"
    name = "text files"

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """See datatrove's `PipelineStep`."""
        for document in data:
            line = document.metadata
            is_changed = document.text != line["original"]
            self.outcome.keep(line["raw"], document.text, is_changed, line.get(ADDED))
            yield document


class DropDocuments:
    """Records what a filter drops (datatrove: an exclusion writer), with a reason where the filter gives none."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self._outcome = outcome
        self._reason = reason

    def __enter__(self) -> DropDocuments:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: no file is open."""

    def write(self, document: Document, rank: int = 0) -> None:
        """Record a dropped document."""
        self._outcome.drop(str(document.metadata.get("filter_reason", self._reason)))
