"""Adds further files to a finished channel: new parts behind those there are, made in the same way.

`source.json` records every such call, and how far it is. A file of which the channel already holds the name and the
size is left out, so that no document is in it twice. A running trainer adopts the new parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from data_prep.channels.channel_job import REJECTED_FILE, ChannelJob
from data_prep.channels.indexed_writer import read_finished_parts
from data_prep.channels.long_documents import LongDocuments
from data_prep.channels.resume_point import ResumePoint, read_resume_point
from data_prep.channels.source import write_source
from data_prep.channels.tokenize_channel import explaining_write_errors
from data_prep.channels.totals import Progress, counts, losses, parts_text
from data_prep.channels.write_documents import ChannelWriter, write_documents
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.reader import ReadState
from data_prep.text.sole_writer import sole_writer
from data_prep.tokenizers.encoders import Encoder, ReferenceEncoder
from harness.channels.source import SOURCE_FILE, AppendedFiles, RecordedSource, Source, Totals, read_source
from harness.errors import UsageError
from harness.text import listed
from harness.tokenizers.identity import difference, relation_to
from harness.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class AppendResult:
    """The channel after its files were added."""

    added: Totals
    num_new_parts: int
    channel: Totals
    num_parts: int

    def summary(self, folder: Path) -> str:
        """Return a summary for a person, in a few lines."""
        lines = [f"{folder}: added {parts_text(self.num_new_parts)}, {counts(self.added)}", *losses(self.added, folder)]
        return "\n".join([*lines, f"  the channel has {parts_text(self.num_parts)}, {counts(self.channel)}"])


@dataclass(frozen=True, kw_only=True)
class Append:
    """A call that adds files to a channel, while it holds the channel's lock."""

    job: ChannelJob
    """The new files only; none if the channel holds all of them."""
    known: tuple[InputFile, ...]
    """Files that the channel holds already."""
    later: tuple[InputFile, ...] = ()
    """Files for a call after this one, which goes on with those of an interrupted call."""
    recorded: RecordedSource

    def run(self, tokenizer: Tokenizer, progress: Progress, encoder: Encoder | None = None) -> AppendResult:
        """Write the new parts.

        Raises:
            DataError: The input is damaged, has no document or too many bad lines; or the disk is full.
        """
        job, source = self.job, self.recorded.source
        with explaining_write_errors(job.folder):
            parts = read_finished_parts(job.folder)
            call = self._begin(len(parts))
            begin = ResumePoint(batch=ReadState(rejected_bytes=call.rejected_bytes))
            if len(parts) > call.first_part:
                begin = read_resume_point(job.folder, parts)
            with closing(ChannelWriter(job, source, tokenizer, parts, begin, call.first_part)) as writer:
                added = write_documents(job, encoder or ReferenceEncoder(tokenizer), writer, progress)
            before = self.recorded.totals or Totals()
            finished = replace(
                self.recorded, totals=before.plus(added), appended=(*self._earlier(), replace(call, finished=added))
            )
            write_source(job.folder, finished)
        return AppendResult(
            added=added,
            num_new_parts=writer.num_parts - call.first_part,
            channel=before.plus(added),
            num_parts=writer.num_parts,
        )

    def _begin(self, num_parts: int) -> AppendedFiles:
        """Return the record of this call: of an interrupted one, or a new one, which is written first."""
        open_call = self.recorded.unfinished_append
        if open_call is not None and open_call.inputs == self.job.named_inputs:
            return open_call
        rejected = self.job.folder / REJECTED_FILE
        call = AppendedFiles(
            inputs=self.job.named_inputs,
            first_part=num_parts,
            rejected_bytes=rejected.stat().st_size if rejected.exists() else 0,
        )
        if open_call is not None:  # of which nothing is in the channel
            call = replace(call, rejected_bytes=open_call.rejected_bytes)
        write_source(self.job.folder, replace(self.recorded, appended=(*self._earlier(), call)))
        return call

    def _earlier(self) -> tuple[AppendedFiles, ...]:
        return tuple(call for call in self.recorded.appended if call.finished is not None)


@contextmanager
def opened_append(
    folder: Path, files: Sequence[InputFile], tokenizer: Tokenizer, *, accept_same_names: bool = False
) -> Iterator[Append]:
    """Prepare a call, and keep others from writing the channel until it is done.

    With `accept_same_names` a file with the name of one in the channel, and another size, is another file.

    Raises:
        UsageError: There is no finished channel, it was made with another tokenizer, a file has changed, another call
            was interrupted, or another process writes the channel.
        DataError: `source.json` is unreadable.
    """
    if not (folder / SOURCE_FILE).exists():
        raise UsageError(
            f"{folder}: there is no channel that `harness data tokenize` made ({SOURCE_FILE} is missing), so it is not "
            "known how further files are to be read. Check --output and --channel, or make the channel first."
        )
    with sole_writer(folder):
        recorded = read_source(folder)
        if recorded is None or recorded.totals is None:
            raise UsageError(
                f"{folder}: the channel is not finished. Run `harness data tokenize` again as it was called, then add "
                "files."
            )
        _check_tokenizer(folder, recorded.source, tokenizer)
        known, new, later = _sorted_out(folder, recorded, files, accept_same_names)
        yield Append(job=_job(folder, recorded.source, new), known=known, later=later, recorded=recorded)


def _check_tokenizer(folder: Path, source: Source, tokenizer: Tokenizer) -> None:
    # A grown tokenizer would cut the new text in other pieces than the old.
    if relation_to(source.tokenizer, tokenizer) != "same":
        raise UsageError(
            f"{folder} was made with another tokenizer, {source.tokenizer}; {difference(source.tokenizer, tokenizer)}. "
            "A channel has one tokenizer: name the one that made it, or make another channel of the new files."
        )


Files: TypeAlias = tuple[InputFile, ...]


def _sorted_out(
    folder: Path, recorded: RecordedSource, files: Sequence[InputFile], accept_same_names: bool
) -> tuple[Files, Files, Files]:
    """Return the files that the channel holds already, the new ones, and those that must wait for an interrupted call.

    Raises:
        UsageError: An interrupted call must go on with its own files, or a file has changed.
    """
    finished = {entry for inputs in _finished_calls(recorded) for entry in inputs}
    by_entry = [(file, (file.name, file_bytes(file))) for file in files]
    known = tuple(file for file, entry in by_entry if entry in finished)
    new = [(file, entry) for file, entry in by_entry if entry not in finished]
    open_call = recorded.unfinished_append
    if open_call is not None and len(read_finished_parts(folder)) > open_call.first_part:
        left = list(new)
        try:
            again = [left.pop([entry for _, entry in left].index(wanted))[0] for wanted in open_call.inputs]
        except ValueError as error:
            names = listed([f"{name} ({size:,} bytes)" for name, size in open_call.inputs], 3)
            raise UsageError(
                f"{folder}: an earlier call that added {names} was interrupted, with some of its parts in the channel. "
                "Name these files again, unchanged, to go on with it."
            ) from error
        return known, tuple(again), tuple(file for file, _ in left)
    sizes = {name: size for name, size in finished}
    changed = [(file, size) for file, (name, size) in new if name in sizes]
    if changed and not accept_same_names:
        file, size = changed[0]
        raise UsageError(
            f"{file} has {size:,} bytes, and the channel holds a file of that name with {sizes[file.name]:,}. If "
            "documents were added to it, those before would be in the channel twice: write the new ones into a file of "
            "their own. If it is another file, add --accept-same-names."
        )
    return known, tuple(file for file, _ in new), ()


def _finished_calls(recorded: RecordedSource) -> Iterator[tuple[tuple[str, int], ...]]:
    yield recorded.source.inputs
    yield from (call.inputs for call in recorded.appended if call.finished is not None)


def _job(folder: Path, source: Source, files: Sequence[InputFile]) -> ChannelJob:
    return ChannelJob(
        inputs=files,
        folder=folder,
        text_key=source.text_key,
        tokens_per_part=source.tokens_per_part or sys.maxsize,  # 0: a merged channel of one part
        append_end_of_document=source.end_of_document_id is not None,
        end_of_document_id=source.end_of_document_id,
        begin_of_document_id=source.begin_of_document_id,
        max_document_tokens=source.max_document_tokens,
        long_documents=cast("LongDocuments", source.long_documents),
        is_append=True,
    )
