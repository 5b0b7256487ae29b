"""Turns documents into a channel: reads, encodes in batches, and writes parts, continuing where a killed call ended.

The parts are a function of the input alone, not of batches, speed or interruptions: two calls always give the same
bytes. Reading runs in a thread ahead of encoding, which uses all cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.channels.ahead import ahead
from data_prep.channels.indexed_writer import FinishedPart, PartWriter, part_prefix, read_finished_parts, token_dtype
from data_prep.channels.long_documents import DocumentShape, LongDocuments, Pieces, lay_down
from data_prep.channels.resume_point import ResumePoint, read_resume_point, write_resume_point
from data_prep.channels.source import finish_source, open_source
from data_prep.channels.totals import Progress
from data_prep.text.input_files import InputFile, file_bytes
from data_prep.text.reader import Batch, BatchReader, ReadState
from data_prep.text.sole_writer import sole_writer
from data_prep.tokenizers.encoders import Encoder, ReferenceEncoder
from harness.channels.source import Source, Totals
from harness.errors import DataError
from harness.tokenizers.identity import identity_of
from harness.tokenizers.tokenizer import Tokenizer

REJECTED_FILE = "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class ChannelJob:
    """Input, output and settings of one channel to tokenize."""

    inputs: Sequence[InputFile]
    """Files in the order of the documents."""
    folder: Path
    """The channel folder; it is made if missing."""
    text_key: str = "text"
    tokens_per_part: int = 1_000_000_000
    """A part ends with the document that reaches this many tokens."""
    append_end_of_document: bool = True
    max_document_tokens: int | None = None
    """Tokens of the longest document, the end-of-document token included."""
    long_documents: LongDocuments = "keep"
    """Treatment of longer documents."""
    max_rejected_share: float = 0.01
    """Share of rejected lines above which the input is refused."""


@dataclass(frozen=True)
class ChannelResult:
    """The channel folder after the call."""

    totals: Totals
    num_parts: int
    was_there: bool
    """True if an earlier call had finished the channel, so nothing was done."""

    def summary(self, folder: Path) -> str:
        """Return a summary for a person, in a few lines."""
        totals = self.totals
        parts = "1 part" if self.num_parts == 1 else f"{self.num_parts:,} parts"
        lines = [
            f"{folder}: {parts}, {totals.documents:,} documents, {totals.tokens:,} tokens, "
            f"{totals.characters_per_token:.2f} characters per token"
            + (" (finished before; nothing was done)" if self.was_there else "")
        ]
        if totals.split or totals.dropped:
            lines.append(f"  too long: {totals.split:,} documents split, {totals.dropped:,} dropped")
        if totals.rejected:
            share = f"{totals.rejected:,} of {totals.lines:,} lines ({totals.rejected_share:.2%})"
            lines.append(f"  rejected {share}, listed in {folder / REJECTED_FILE}")
        return "\n".join(lines)


def tokenize_channel(
    job: ChannelJob, tokenizer: Tokenizer, progress: Progress, encoder: Encoder | None = None
) -> ChannelResult:
    """Make, continue or recognize a channel.

    Its record names the tokenizer; an encoder gives the same ids, only faster.

    Raises:
        UsageError: The folder holds something else, or is being written by another process.
        DataError: The input is damaged, has no document or too many bad lines; or the disk is full.
    """
    source = Source(
        inputs=tuple((file.name, file_bytes(file)) for file in job.inputs),
        tokenizer=identity_of(tokenizer),
        text_key=job.text_key,
        end_of_document_id=tokenizer.end_of_document_id if job.append_end_of_document else None,
        tokens_per_part=job.tokens_per_part,
        max_document_tokens=job.max_document_tokens,
        long_documents=job.long_documents,
    )
    with _explaining_write_errors(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(job.folder):
            totals = open_source(job.folder, source)
            parts = read_finished_parts(job.folder)
            if totals is not None:
                return ChannelResult(totals, len(parts), was_there=True)
            begin = read_resume_point(job.folder, parts)
            with closing(_ChannelWriter(job, source, parts, begin)) as writer:
                totals = _write_channel(job, encoder or ReferenceEncoder(tokenizer), writer, progress)
            finish_source(job.folder, source, totals)
            return ChannelResult(totals, writer.num_parts, was_there=False)


class _ChannelWriter:
    """Spreads encoded documents over numbered parts."""

    def __init__(self, job: ChannelJob, source: Source, parts: Sequence[FinishedPart], begin: ResumePoint) -> None:
        self.begin = begin
        self.num_parts = len(parts)
        self.num_split = begin.split
        self.num_dropped = begin.dropped
        self._job = job
        self._shape = DocumentShape(
            end_id=source.end_of_document_id, max_tokens=job.max_document_tokens, long_documents=job.long_documents
        )
        self._dtype = token_dtype(source.tokenizer.vocab_size)
        self._part: PartWriter | None = None
        self._finished_tokens = sum(part.tokens for part in parts)

    @property
    def num_tokens(self) -> int:
        """Tokens written, those of earlier calls included."""
        return self._finished_tokens + (self._part.num_tokens if self._part else 0)

    def add(self, batch: Batch, encoder: Encoder) -> None:
        """Write the documents of a batch, opening and finishing parts as they fill up."""
        done = self.begin.documents if batch.start == self.begin.batch else 0
        if done > len(batch.texts):
            raise DataError(_changed_input(self._job.folder, batch.start.documents + done, batch.end.documents))
        if done == len(batch.texts):
            return
        pieces = lay_down(encoder.encode(batch.texts[done:]), self._shape)
        while len(pieces.per_document):
            wanted = self._job.tokens_per_part - (self._part.num_tokens if self._part else 0)
            reaching = pieces.num_documents_reaching(wanted)
            count = len(pieces.per_document) if reaching is None else reaching
            written, pieces = pieces.split_at(count)
            self._write(written)
            done += count
            if reaching is not None:
                self.finish_part(batch.start, done)

    def finish_part(self, batch: ReadState, documents: int) -> None:
        """Finish the open part, if there is one; it ends `documents` documents after the beginning of a batch."""
        if self._part is None:
            return
        point = ResumePoint(batch=batch, documents=documents, split=self.num_split, dropped=self.num_dropped)
        write_resume_point(self._job.folder, part_prefix(self.num_parts), point)
        self._finished_tokens += self._part.finish().tokens
        self._part = None
        self.num_parts += 1

    def close(self) -> None:
        """Close an unfinished part, which is then lost."""
        if self._part is not None:
            self._part.close()

    def _write(self, pieces: Pieces) -> None:
        self.num_split += int((pieces.per_document > 1).sum())
        self.num_dropped += int((pieces.per_document == 0).sum())
        if not len(pieces.lengths):
            return
        if self._part is None:
            self._part = PartWriter(self._job.folder, self.num_parts, self._dtype)
        self._part.add_documents(pieces.ids, pieces.lengths)


def _write_channel(job: ChannelJob, encoder: Encoder, writer: _ChannelWriter, progress: Progress) -> Totals:
    reader = BatchReader(job.inputs, job.text_key, job.folder / REJECTED_FILE)
    end = writer.begin.batch
    with ahead(reader.batches(end)) as batches:
        for batch in batches:
            writer.add(batch, encoder)
            end = batch.end
            progress(_totals(end, writer), batch.bytes_read)
    end = reader.end or end
    done = writer.begin.batch.documents + writer.begin.documents
    if end.documents < done:
        raise DataError(_changed_input(job.folder, done, end.documents))
    totals = _totals(end, writer)
    _check_input(job, totals)
    writer.finish_part(end, 0)
    return totals


def _totals(read: ReadState, writer: _ChannelWriter) -> Totals:
    return Totals(
        lines=read.lines,
        rejected=read.rejected,
        documents=read.documents,
        tokens=writer.num_tokens,
        characters=read.characters,
        split=writer.num_split,
        dropped=writer.num_dropped,
    )


def _check_input(job: ChannelJob, totals: Totals) -> None:
    """Refuse to finish a channel whose input looks wrong. Called before the last part becomes valid."""
    if totals.rejected_share > job.max_rejected_share:
        raise DataError(
            f"{totals.rejected:,} of {totals.lines:,} lines ({totals.rejected_share:.2%}) are not documents; allowed: "
            f"{job.max_rejected_share:.2%}. {job.folder / REJECTED_FILE} lists them with the reasons. Correct the "
            "input and delete the channel folder, or run the same command with a larger --max-rejected-share to go on "
            "as it is."
        )
    names = ", ".join(str(file) for file in job.inputs[:3]) + (" …" if len(job.inputs) > 3 else "")
    if totals.documents == 0:
        raise DataError(f"no document in the input ({names}): all files are empty.")
    if totals.documents == totals.dropped:
        raise DataError(
            f"no document is left of the input ({names}): all {totals.documents:,} are longer than "
            f"--max-document-tokens {job.max_document_tokens}. Raise it, or use --long-documents split."
        )


def _changed_input(folder: Path, num_done: int, num_found: int) -> str:
    return (
        f"{folder} already holds {num_done:,} documents of this input, which now has {num_found:,}. "
        "The input was changed: delete the channel folder to make it anew."
    )


@contextmanager
def _explaining_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}). Finished parts are untouched: "
            "make room or repair the file system, then run the same command again."
        ) from error
