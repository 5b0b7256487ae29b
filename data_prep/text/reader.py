"""Reads the input in batches of documents, counts every line, and lists the lines that are not documents.

Empty lines and empty texts are counted apart: there is nothing to lose in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.origins import Origins
from data_prep.text.read_documents import BEGINNING, Place, Record, Rejection, read_records
from data_prep.text.record_names import name_keys
from data_prep.text.rejected_list import opened_list
from harness.channels.provenance import Provenance
from harness.errors import DataError

BATCH_DOCUMENTS = 8192
BATCH_CHARACTERS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class ReadState:
    """A border between two batches, with all that is needed to continue from it."""

    file: int = 0
    """Number of the input file, counted from 0."""
    place: Place = BEGINNING
    lines: int = 0
    rejected: int = 0
    empty: int = 0
    """Lines, and texts, in which there is nothing; they are not listed."""
    rejected_bytes: int = 0
    """Size of the list of rejected lines."""
    documents: int = 0
    characters: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some documents in the order of the input, and what has been read before and after them."""

    texts: list[str]
    provenance: list[Provenance]
    """The place that each text came from."""
    start: ReadState
    end: ReadState
    bytes_read: int
    """Bytes of the whole input, as on disk, up to the end of the batch."""


class BatchReader:
    """Batches of documents. They depend on the input and on where one begins, on nothing else.

    Unless it `may_lose_files`, a file that has lines and not one document is refused: among many files its few lines,
    perhaps one for all documents, would stay below any limit.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        text_key: str,
        rejected_file: Path,
        *,
        may_lose_files: bool = True,
        name_key: str | None = None,
    ) -> None:
        self._files = files
        self._names = name_keys(name_key)
        self._origins = Origins(files)
        self._text_key = text_key
        self._rejected_file = rejected_file
        self._may_lose_files = may_lose_files
        self.end: ReadState | None = None
        """Totals of all that was read; known when the last batch has been yielded."""

    def batches(self, start: ReadState) -> Generator[Batch, None, None]:
        """Yield the batches from `start` on. The list of lines that are not documents is first cut back to `start`.

        Raises:
            DataError: A file cannot be read, or has no document though it may not be lost; the list is a link, or
                shorter than `start` says.
            OSError: From the disk, while the list is written.
        """
        if start.file > max(0, len(self._files) - 1):
            raise DataError(
                f"the interrupted call was in file {start.file + 1} of the input, which now has {len(self._files)}. "
                "The input was changed: delete the channel folder to make it anew."
            )
        bytes_before = sum(file_bytes(file) for file in self._files[: start.file])
        with opened_list(self._rejected_file, start.rejected_bytes) as rejected, closing(self._origins):
            batch = _OpenBatch(start, self._origins)
            for number, record in self._records(start):
                if number != batch.file:
                    bytes_before += sum(file_bytes(file) for file in self._files[batch.file : number])
                batch.add(number, record, rejected)
                if batch.is_full:
                    _put_on_disk(rejected, batch)
                    yield batch.closed(bytes_before + record.file_bytes_read)
                    batch = _OpenBatch(batch.state(), self._origins)
            _put_on_disk(rejected, batch)
            self.end = batch.state()
            if batch.texts:
                yield batch.closed(sum(file_bytes(file) for file in self._files))

    def _records(self, start: ReadState) -> Iterator[tuple[int, Record]]:
        for number in range(start.file, len(self._files)):
            place = start.place if number == start.file else BEGINNING
            # A batch that ends within a file ends with a document of it.
            has_document, first_rejected = place != BEGINNING, None
            with closing(self._read(number, place)) as records:
                for record in records:
                    if isinstance(record.content, str):
                        has_document = True
                    elif first_rejected is None and not record.content.is_empty:
                        first_rejected = record
                    yield number, record
            if first_rejected is not None and not has_document and not self._may_lose_files:
                raise DataError(self._without_document(first_rejected))

    def _read(self, number: int, place: Place) -> Generator[Record, None, None]:
        return read_records(self._files[number], self._text_key, start=place, names=self._names)

    def _without_document(self, rejected: Record) -> str:
        reason = rejected.content.reason if isinstance(rejected.content, Rejection) else ""
        return (
            f"{rejected.file}: the file has not one document. The first reason, of line {rejected.line}: {reason}. "
            f"{self._rejected_file} lists all. Correct the file or leave it out; or run the same command with "
            "--max-rejected-share 1 to go on without its text."
        )


class _OpenBatch:
    """A batch that is being filled, and the counts that run on in it."""

    def __init__(self, start: ReadState, origins: Origins) -> None:
        self.texts: list[str] = []
        self.provenance: list[Provenance] = []
        self._origins = origins
        self.file = start.file
        self._start = start
        self._place = start.place
        self._last: Record | None = None
        self._characters = 0
        self._num_rejected = 0
        self._num_empty = 0
        self.rejected_bytes = 0
        self._num_lines = 0

    @property
    def is_full(self) -> bool:
        return len(self.texts) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS

    def add(self, file: int, record: Record, rejected: BinaryIO) -> None:
        self.file = file
        self._last = record
        self._num_lines += 1
        if isinstance(record.content, Rejection):
            if record.content.is_empty:
                self._num_empty += 1
                return
            entry = {"file": str(record.file), "line": record.line, "reason": record.content.reason}
            self.rejected_bytes += rejected.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._num_rejected += 1
            return
        self.texts.append(record.content)
        self.provenance.append(self._origins.of(file, record.line, record.name))
        self._characters += len(record.content)

    def state(self) -> ReadState:
        """Return the border behind the last line that was added."""
        start = self._start
        return ReadState(
            file=self.file,
            place=self._last.end if self._last else start.place,
            lines=start.lines + self._num_lines,
            rejected=start.rejected + self._num_rejected,
            empty=start.empty + self._num_empty,
            rejected_bytes=start.rejected_bytes + self.rejected_bytes,
            documents=start.documents + len(self.texts),
            characters=start.characters + self._characters,
        )

    def closed(self, bytes_read: int) -> Batch:
        return Batch(
            texts=self.texts,
            provenance=self.provenance,
            start=self._start,
            end=self.state(),
            bytes_read=bytes_read,
        )


def _put_on_disk(rejected: BinaryIO, batch: _OpenBatch) -> None:
    """Flush the rejected lines to disk before a batch is yielded, because a part may be finished with it."""
    if batch.rejected_bytes:
        rejected.flush()
        os.fsync(rejected.fileno())
