"""Turns documents into a channel: reads, encodes in batches, and writes parts, continuing where a killed call ended.

The parts are a function of the input alone (never of batches, speed or interruptions). So an interrupted call needs no
state of its own: the finished parts say how many documents are done, and those are read over without being encoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data_prep.documents import Rejection, read_records
from data_prep.indexed_writer import FinishedPart, PartWriter, read_finished_parts, token_dtype
from data_prep.progress import Progress
from data_prep.source import Source, finish_source, input_identity, open_source, sole_writer
from data_prep.totals import Totals
from harness.data.tokenizer import Tokenizer
from harness.errors import DataError

REJECTED_FILE = "rejected.jsonl"
BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class ChannelJob:
    """What to put into which channel folder, and how."""

    inputs: list[Path]
    """JSONL files in the order of the documents."""
    folder: Path
    """The channel folder; it is made if need be."""
    text_key: str = "text"
    tokens_per_part: int = 1_000_000_000
    """A part ends with the document that reaches this many tokens."""
    append_end_of_document: bool = True
    max_rejected_share: float = 0.01
    """Share of rejected lines above which the input is not believed."""


@dataclass(frozen=True)
class ChannelResult:
    """What the channel folder holds now."""

    totals: Totals
    num_parts: int
    was_there: bool
    """Whether an earlier call had finished the channel, so that nothing was done."""

    def summary(self, folder: Path) -> str:
        """What a person wants to know afterwards, in one or two lines."""
        totals = self.totals
        parts = "1 part" if self.num_parts == 1 else f"{self.num_parts:,} parts"
        lines = [
            f"{folder}: {parts}, {totals.documents:,} documents, {totals.tokens:,} tokens, "
            f"{totals.characters_per_token:.2f} characters per token"
            + (" (finished before; nothing was done)" if self.was_there else "")
        ]
        if totals.rejected:
            share = f"{totals.rejected:,} of {totals.lines:,} lines ({totals.rejected_share:.2%})"
            lines.append(f"  rejected {share}, listed in {folder / REJECTED_FILE}")
        return "\n".join(lines)


def tokenize_channel(job: ChannelJob, tokenizer: Tokenizer, progress: Progress) -> ChannelResult:
    """Makes, continues or recognizes a channel.

    Raises:
        UsageError: the folder holds something else, or is being written by another process.
        DataError: the input is damaged, has no document or too many bad lines; or the disk is full.
    """
    source = Source(
        inputs=input_identity(job.inputs),
        tokenizer=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        text_key=job.text_key,
        end_of_document_id=tokenizer.end_of_document_id if job.append_end_of_document else None,
        tokens_per_part=job.tokens_per_part,
    )
    with _explaining_write_errors(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(job.folder):
            totals = open_source(job.folder, source)
            parts = read_finished_parts(job.folder)
            if totals is not None:
                return ChannelResult(totals, len(parts), was_there=True)
            with closing(_ChannelWriter(job, tokenizer, parts)) as writer:
                totals = _write_channel(job, writer, progress)
            finish_source(job.folder, source, totals)
            return ChannelResult(totals, writer.num_parts, was_there=False)


class _ChannelWriter:
    """Encodes documents and spreads them over numbered parts."""

    def __init__(self, job: ChannelJob, tokenizer: Tokenizer, parts: list[FinishedPart]) -> None:
        self.num_parts = len(parts)
        self._job = job
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._suffix = [tokenizer.end_of_document_id] if job.append_end_of_document else []
        self._part: PartWriter | None = None
        self._finished_documents = sum(part.documents for part in parts)
        self._finished_tokens = sum(part.tokens for part in parts)

    @property
    def num_documents(self) -> int:
        """Documents written, those of earlier calls included."""
        return self._finished_documents + (self._part.num_documents if self._part else 0)

    @property
    def num_tokens(self) -> int:
        """Tokens written, those of earlier calls included."""
        return self._finished_tokens + (self._part.num_tokens if self._part else 0)

    def add(self, documents: list[str]) -> None:
        """Writes some documents, opening and finishing parts as they fill up."""
        for ids in self._tokenizer.encode_documents(documents):
            if self._part is None:
                self._part = PartWriter(self._job.folder, self.num_parts, self._dtype)
            self._part.add_document(ids + self._suffix)
            if self._part.num_tokens >= self._job.tokens_per_part:
                self.finish_part()

    def finish_part(self) -> None:
        """Makes the documents since the last part a part, if there are any."""
        if self._part is None:
            return
        part = self._part.finish()
        self._part = None
        self.num_parts += 1
        self._finished_documents += part.documents
        self._finished_tokens += part.tokens

    def close(self) -> None:
        """Lets go of an unfinished part."""
        if self._part is not None:
            self._part.close()


def _write_channel(job: ChannelJob, writer: _ChannelWriter, progress: Progress) -> Totals:
    totals = Totals()
    num_done = writer.num_documents
    with (job.folder / REJECTED_FILE).open("w", encoding="utf-8") as rejected_file:
        documents = _accepted_documents(job, totals, rejected_file)
        for batch in _batches(documents):
            first = totals.documents - len(batch)
            writer.add([document.text for document in batch[max(0, num_done - first) :]])
            totals.tokens = writer.num_tokens
            progress(totals, batch[-1].bytes_read)
    _check_input(job, totals, num_done)
    writer.finish_part()
    totals.tokens = writer.num_tokens
    return totals


@dataclass(frozen=True, slots=True)
class _Document:
    text: str
    bytes_read: int
    """Bytes of the whole input (as on disk) read when this document is reached."""


def _accepted_documents(job: ChannelJob, totals: Totals, rejected_file: IO[str]) -> Iterator[_Document]:
    """Yields the documents of all files; counts every line, and lists those that are none."""
    bytes_before = 0
    for file in job.inputs:
        for record in read_records(file, job.text_key):
            totals.lines += 1
            if isinstance(record.content, Rejection):
                totals.rejected += 1
                entry = {"file": str(file), "line": record.line, "reason": record.content.reason}
                rejected_file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                continue
            totals.documents += 1
            totals.characters += len(record.content)
            yield _Document(record.content, bytes_before + record.file_bytes_read)
        bytes_before += file.stat().st_size


def _batches(documents: Iterator[_Document]) -> Iterator[list[_Document]]:
    """Groups documents so that a batch keeps all cores busy and memory stays bounded."""
    batch: list[_Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _check_input(job: ChannelJob, totals: Totals, num_done: int) -> None:
    """Refuses to finish a channel whose input is not to be believed. Called before the last part becomes valid."""
    if totals.rejected_share > job.max_rejected_share:
        raise DataError(
            f"{totals.rejected:,} of {totals.lines:,} lines ({totals.rejected_share:.2%}) are no documents; allowed: "
            f"{job.max_rejected_share:.2%}. {job.folder / REJECTED_FILE} says which and why. Mend the input and delete "
            "the channel folder, or run the same command with a larger --max-rejected-share to go on as it is."
        )
    if totals.documents == 0:
        names = ", ".join(str(file) for file in job.inputs[:3])
        raise DataError(
            f"no document in the input ({names}{' …' if len(job.inputs) > 3 else ''}): all files are empty."
        )
    if totals.documents < num_done:
        raise DataError(
            f"{job.folder} already holds {num_done:,} documents of this input, which now has {totals.documents:,}. "
            "The input was changed: delete the channel folder to make it anew."
        )


@contextmanager
def _explaining_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}). Finished parts are untouched: "
            "make room or mend the file system, then run the same command again."
        ) from error
