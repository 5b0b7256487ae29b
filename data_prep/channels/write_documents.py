"""Writes the documents of files as parts of a channel, from any point of the input on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from data_prep.channels.ahead import ahead
from data_prep.channels.channel_job import REJECTED_FILE, ChannelJob
from data_prep.channels.document_counts import DocumentCounts, TextCheck
from data_prep.channels.indexed_writer import FinishedPart, PartWriter, part_prefix, token_dtype
from data_prep.channels.long_documents import DocumentShape, Pieces, lay_down
from data_prep.channels.resume_point import ResumePoint, write_resume_point
from data_prep.channels.totals import Progress
from data_prep.text.reader import Batch, BatchReader, ReadState
from data_prep.tokenizers.encoders import Encoder
from data_prep.tokenizers.round_trip import LOSS_ADVICE
from harness.channels.provenance import Provenance
from harness.channels.source import Source, Totals
from harness.errors import DataError
from harness.sole_writer import SoleWriter
from harness.tokenizers.tokenizer import Tokenizer


class ChannelWriter:
    """Spreads encoded documents over numbered parts, from part `first_part` on; `parts` are all that there are."""

    def __init__(  # noqa: PLR0913 - a whole call
        self,
        job: ChannelJob,
        source: Source,
        tokenizer: Tokenizer,
        parts: Sequence[FinishedPart],
        begin: ResumePoint,
        held: SoleWriter,
        first_part: int = 0,
    ) -> None:
        self.begin = begin
        self._held = held
        self.num_parts = len(parts)
        self.first_part = first_part
        self.counts = begin.counts
        self._job = job
        begin_id, end_id = source.begin_of_document_id, source.end_of_document_id
        self._shape = DocumentShape(
            end_id=end_id, begin_id=begin_id, max_tokens=job.max_document_tokens, long_documents=job.long_documents
        )
        self._check = TextCheck(tokenizer, [symbol for symbol in (begin_id, end_id) if symbol is not None])
        self._dtype = token_dtype(source.tokenizer.vocab_size)
        self._part: PartWriter | None = None
        self._finished_tokens = sum(part.tokens for part in parts[first_part:])

    @property
    def num_tokens(self) -> int:
        """Tokens written of these files, those of interrupted calls included."""
        return self._finished_tokens + (self._part.num_tokens if self._part else 0)

    @property
    def is_begun(self) -> bool:
        """True if the channel has parts of these files."""
        return self.num_parts > self.first_part

    def add(self, batch: Batch, encoder: Encoder) -> None:
        """Write the documents of a batch, opening and finishing parts as they fill up.

        Raises:
            DataError: More of the input up to the end of the batch is lost or rejected than allowed, and a part would
                be finished; or the input has changed since an interruption.
        """
        done = self.begin.documents if batch.start == self.begin.batch else 0
        if done > len(batch.texts):
            raise DataError(_changed_input(self._job.folder, batch.start.documents + done, batch.end.documents))
        if done == len(batch.texts):
            return
        texts, provenance, first = batch.texts[done:], batch.provenance[done:], done
        encoded = encoder.encode(texts)
        found = self._check.look_at(texts, encoded, batch.start.documents + first, encoder)
        pieces = lay_down(encoded, self._shape)
        seen = self._seen(batch.end, found.sums(0, len(texts)), len(pieces.ids))
        while len(pieces.per_document):
            wanted = self._job.tokens_per_part - (self._part.num_tokens if self._part else 0)
            reaching = pieces.num_documents_reaching(wanted)
            count = len(pieces.per_document) if reaching is None else reaching
            written, pieces = pieces.split_at(count)
            self._write(written, provenance[done - first : done - first + count])
            self.counts = self.counts.plus(found.sums(done - first, done - first + count))
            done += count
            if reaching is not None:
                # A part can't be taken back: trainers adopt it. So all that is known is held against the limits before.
                check_shares(self._job, seen, is_begun=self.is_begun)
                self.finish_part(batch.start, done)

    def finish_part(self, batch: ReadState, documents: int) -> None:
        """Finish the open part, if there is one; it ends `documents` documents after the beginning of a batch.

        Raises:
            DataError: The channel folder was deleted, moved or replaced.
        """
        if self._part is None:
            return
        self._held.require()  # else the part would go into a channel that another process makes now
        point = ResumePoint(batch=batch, documents=documents, counts=self.counts)
        write_resume_point(self._job.folder, part_prefix(self.num_parts), point)
        self._finished_tokens += self._part.finish().tokens
        self._part = None
        self.num_parts += 1

    def totals(self, read: ReadState) -> Totals:
        """Return the counts of what was written, and of the input that was read for it."""
        return self._seen(read, DocumentCounts(), 0)

    def close(self) -> None:
        """Close an unfinished part, which is then lost."""
        if self._part is not None:
            self._part.close()

    def _seen(self, read: ReadState, further: DocumentCounts, num_tokens: int) -> Totals:
        """Return the counts with those of documents that are encoded and not yet written."""
        return Totals(
            lines=read.lines,
            rejected=read.rejected,
            empty=read.empty,
            documents=read.documents,
            tokens=self.num_tokens + num_tokens,
            characters=read.characters,
            **asdict(self.counts.plus(further)),
        )

    def _write(self, pieces: Pieces, provenance: Sequence[Provenance]) -> None:
        split, dropped = int((pieces.per_document > 1).sum()), int((pieces.per_document == 0).sum())
        self.counts = self.counts.plus(DocumentCounts(split=split, dropped=dropped))
        if not len(pieces.lengths):
            return
        if self._part is None:
            self._part = PartWriter(self._job.folder, self.num_parts, self._dtype, has_provenance=True)
        self._part.add_documents(pieces.ids, pieces.lengths)
        self._part.add_provenance(of_pieces(provenance, pieces.per_document.tolist()))


def of_pieces(provenance: Sequence[Provenance], per_document: Sequence[int]) -> Iterator[Provenance]:
    """Yield the provenance of each piece that is written of documents; pieces of a split one have numbers."""
    for entry, count in zip(provenance, per_document, strict=True):
        yield from (entry._replace(piece=piece) for piece in range(1, count + 1)) if count > 1 else (entry,) * count


def write_documents(job: ChannelJob, encoder: Encoder, writer: ChannelWriter, progress: Progress) -> Totals:
    """Write the documents of the job's files that are not in finished parts yet, and return the counts of all of them.

    Raises:
        DataError: The input is damaged, has no document or too many bad lines, or has changed since an interruption.
    """
    rejected_file, may_lose_files = job.folder / REJECTED_FILE, job.max_rejected_share >= 1
    reader = BatchReader(job.inputs, job.text_key, rejected_file, may_lose_files=may_lose_files, name_key=job.id_key)
    end = writer.begin.batch
    with ahead(reader.batches(end)) as batches:
        for batch in batches:
            writer.add(batch, encoder)
            end = batch.end
            progress(writer.totals(end), batch.bytes_read)
    end = reader.end or end
    done = writer.begin.batch.documents + writer.begin.documents
    if end.documents < done:
        raise DataError(_changed_input(job.folder, done, end.documents))
    totals = writer.totals(end)
    _check_whole(job, totals, is_begun=writer.is_begun)
    writer.finish_part(end, 0)
    return totals


def check_shares(job: ChannelJob, totals: Totals, *, is_begun: bool) -> None:
    """Refuse input of which too much is rejected or lost. Called before a part becomes valid.

    `is_begun` says that parts of this input are in the channel already.

    Raises:
        DataError: A share is above the job's limit.
    """
    if totals.rejected_share > job.max_rejected_share:
        correct = "Correct the input and delete the channel folder, or run"
        if job.is_append:
            correct = "Parts of it are in the channel already: run" if is_begun else "Correct the input, or run"
        raise DataError(
            f"{totals.rejected:,} of {totals.written_lines:,} lines ({totals.rejected_share:.2%}) are not documents; "
            f"allowed: {job.max_rejected_share:.2%}. {job.folder / REJECTED_FILE} lists them with the reasons. "
            f"{correct} the same command with a larger --max-rejected-share to go on as it is."
        )
    if max(totals.lost_share, totals.unknown_share) > job.max_lost_share:
        raise DataError(
            f"the tokenizer loses text: {totals.lost_share:.2%} of {totals.decoded_characters:,} characters that were "
            f"decoded again did not come back, and {totals.unknown_share:.2%} of all tokens stand for unknown text; "
            f"allowed: {job.max_lost_share:.2%}. {LOSS_ADVICE}"
        )


def _check_whole(job: ChannelJob, totals: Totals, *, is_begun: bool) -> None:
    """Refuse to finish a channel whose input looks wrong. Called before the last part becomes valid."""
    check_shares(job, totals, is_begun=is_begun)
    names = ", ".join(str(file) for file in job.inputs[:3]) + (" …" if len(job.inputs) > 3 else "")
    if totals.documents == 0:
        raise DataError(f"no document in the input ({names}): {_other_lines(totals)}.")
    if totals.documents == totals.dropped:
        raise DataError(
            f"no document is left of the input ({names}): all {totals.documents:,} are longer than "
            f"--max-document-tokens {job.max_document_tokens}. Raise it, or use --long-documents split."
        )


def _other_lines(totals: Totals) -> str:
    """Say what is in an input without a document."""
    kinds = (
        (totals.rejected, "rejected lines"),
        (totals.empty, "empty lines and documents"),
    )
    return " and ".join(f"{number:,} {name}" for number, name in kinds if number) or "all files are empty"


def _changed_input(folder: Path, num_done: int, num_found: int) -> str:
    return (
        f"{folder} already holds {num_done:,} documents of this input, which now has {num_found:,}. "
        "The input was changed: delete the channel folder to make it anew."
    )
