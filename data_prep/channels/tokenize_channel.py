"""Turns documents into a channel: reads, encodes in batches, and writes parts, continuing where a killed call ended.

The parts are a function of the input alone, not of batches, speed or interruptions: two calls always give the same
bytes. Reading runs in a thread ahead of encoding, which uses all cores.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.indexed_writer import read_finished_parts, require_parts
from data_prep.channels.resume_point import read_resume_point
from data_prep.channels.source import finish_source, open_source
from data_prep.channels.totals import Progress, counts, losses, parts_text
from data_prep.channels.write_documents import ChannelWriter, write_documents
from data_prep.text.write_errors import explaining_write_errors
from data_prep.tokenizers.encoders import Encoder, ReferenceEncoder
from harness.channels.source import Source, Totals
from harness.sole_writer import sole_writer
from harness.tokenizers.identity import identity_of
from harness.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChannelResult:
    """The channel folder after the call."""

    totals: Totals
    num_parts: int
    was_there: bool
    """True if an earlier call had finished the channel, so nothing was done."""

    def summary(self, folder: Path) -> str:
        """Return a summary for a person, in a few lines."""
        was_there = " (finished before; nothing was done)" if self.was_there else ""
        first = f"{folder}: {parts_text(self.num_parts)}, {counts(self.totals)}{was_there}"
        return "\n".join([first, *losses(self.totals, folder)])


def tokenize_channel(
    job: ChannelJob, tokenizer: Tokenizer, progress: Progress, encoder: Encoder | None = None
) -> ChannelResult:
    """Make, continue or recognize a channel.

    Its record names the tokenizer; an encoder gives the same ids, only faster.

    Raises:
        UsageError: The folder holds something else, or is being written by another process.
        DataError: The input is damaged, has no document or too many bad lines; the disk is full; or the folder was
            deleted, moved or replaced meanwhile.
    """
    source = source_of(job, tokenizer)
    with explaining_write_errors(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(job.folder) as held:
            totals = open_source(job.folder, source)
            parts = read_finished_parts(job.folder)
            if totals is not None:
                require_parts(job.folder, len(parts), totals.tokens)
                return ChannelResult(totals, len(parts), was_there=True)
            begin = read_resume_point(job.folder, parts)
            with closing(ChannelWriter(job, source, tokenizer, parts, begin, held)) as writer:
                totals = write_documents(job, encoder or ReferenceEncoder(tokenizer), writer, progress)
            held.require()
            require_parts(job.folder, writer.num_parts, totals.tokens)
            finish_source(job.folder, source, totals)
            return ChannelResult(totals, writer.num_parts, was_there=False)


def source_of(job: ChannelJob, tokenizer: Tokenizer) -> Source:
    """Return everything that decides about the parts of a channel."""
    return Source(
        inputs=job.recorded_inputs,
        tokenizer=identity_of(tokenizer),
        text_key=job.text_key,
        end_of_document_id=_end_of_document(job, tokenizer),
        begin_of_document_id=job.begin_of_document_id,
        tokens_per_part=job.tokens_per_part,
        max_document_tokens=job.max_document_tokens,
        long_documents=job.long_documents,
    )


def _end_of_document(job: ChannelJob, tokenizer: Tokenizer) -> int | None:
    if not job.append_end_of_document:
        return None
    return tokenizer.end_of_document_id if job.end_of_document_id is None else job.end_of_document_id
