"""Adds further files to a finished channel: new parts behind those there are, made in the same way.

`source.json` records every such call, and how far it is. A file of which the channel already holds the
content is left out, so that no document is in it twice. A running trainer adopts the new parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from data_prep.channels.channel_job import REJECTED_FILE, ChannelJob
from data_prep.channels.indexed_writer import read_finished_parts, require_parts
from data_prep.channels.input_records import record_inputs
from data_prep.channels.long_documents import LongDocuments
from data_prep.channels.resume_point import ResumePoint, read_resume_point
from data_prep.channels.source import write_source
from data_prep.channels.totals import Progress, counts, losses, parts_text
from data_prep.channels.write_documents import ChannelWriter, write_documents
from data_prep.text.input_file import InputFile
from data_prep.text.reader import ReadState
from data_prep.text.rejected_list import bytes_of_lines
from data_prep.text.write_errors import explaining_write_errors
from data_prep.tokenizers.encoders import Encoder, ReferenceEncoder
from harness.channels.source import (
    SOURCE_FILE,
    AppendedFiles,
    InputRecord,
    Inputs,
    RecordedSource,
    Source,
    Totals,
    are_same,
    read_source,
)
from harness.errors import DataError, UsageError
from harness.sole_writer import SoleWriter, sole_writer
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
class KnownFile:
    """A file whose content the channel holds."""

    name: str
    recorded_name: str
    """Its name when it was added."""

    def __str__(self) -> str:
        """Return its name, and the other one if there is."""
        return self.name if self.name == self.recorded_name else f"{self.name} (as {self.recorded_name})"


@dataclass(frozen=True, kw_only=True)
class Append:
    """A call that adds files to a channel, while it holds the channel's lock."""

    job: ChannelJob
    """The new files only; none if the channel holds all of them."""
    known: tuple[KnownFile, ...]
    """Files that the channel holds already."""
    later: tuple[InputFile, ...] = ()
    """Files for a call after this one, which goes on with those of an interrupted call."""
    recorded: RecordedSource
    held: SoleWriter
    """The channel's lock."""

    def run(self, tokenizer: Tokenizer, progress: Progress, encoder: Encoder | None = None) -> AppendResult:
        """Write the new parts.

        Raises:
            DataError: The input is damaged, has no document or too many bad lines; the disk is full; or the channel
                was deleted, moved or replaced meanwhile.
        """
        job, source = self.job, self.recorded.source
        with explaining_write_errors(job.folder):
            parts = read_finished_parts(job.folder)
            call = self._begin(len(parts))
            before = self.recorded.totals or Totals()
            require_parts(job.folder, len(parts), before.tokens + sum(part.tokens for part in parts[call.first_part :]))
            begin = ResumePoint(batch=ReadState(rejected_bytes=call.rejected_bytes))
            if len(parts) > call.first_part:
                begin = read_resume_point(job.folder, parts)
            with (
                self._taken_back_if_nothing_came(call.first_part),
                closing(ChannelWriter(job, source, tokenizer, parts, begin, self.held, call.first_part)) as writer,
            ):
                added = write_documents(job, encoder or ReferenceEncoder(tokenizer), writer, progress)
            self.held.require()
            require_parts(job.folder, writer.num_parts, before.tokens + added.tokens)
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
        if open_call is not None and are_same(open_call.inputs, self.job.recorded_inputs):
            return open_call
        # Behind the lines of finished calls may be those of one that was refused.
        num_lines = self.recorded.totals.rejected if self.recorded.totals else 0
        kept_bytes = bytes_of_lines(self.job.folder / REJECTED_FILE, num_lines)
        call = AppendedFiles(inputs=self.job.recorded_inputs, first_part=num_parts, rejected_bytes=kept_bytes)
        write_source(self.job.folder, replace(self.recorded, appended=(*self._earlier(), call)))
        return call

    @contextmanager
    def _taken_back_if_nothing_came(self, first_part: int) -> Iterator[None]:
        """Leave the channel finished, as it was, if the call fails before its first part."""
        try:
            yield
        except BaseException:
            with suppress(OSError, DataError):  # then the next call goes on with this one
                if self.held.is_held and len(read_finished_parts(self.job.folder)) == first_part:
                    write_source(self.job.folder, replace(self.recorded, appended=self._earlier()))
            raise

    def _earlier(self) -> tuple[AppendedFiles, ...]:
        return tuple(call for call in self.recorded.appended if call.finished is not None)


@contextmanager
def opened_append(
    folder: Path, files: Sequence[InputFile], tokenizer: Tokenizer, *, accept_same_names: bool = False
) -> Iterator[Append]:
    """Prepare a call, and keep others from writing the channel until it is done.

    With `accept_same_names` a file with the name of one in the channel, and other content, is another file.

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
    with explaining_write_errors(folder), sole_writer(folder) as held:
        recorded = read_source(folder)
        if recorded is None or recorded.totals is None:
            raise UsageError(
                f"{folder}: the channel is not finished. Run `harness data tokenize` again as it was called, then add "
                "files."
            )
        _check_tokenizer(folder, recorded.source, tokenizer)
        known, new, later = _sorted_out(folder, recorded, files, accept_same_names)
        yield Append(job=_job(folder, recorded.source, new), known=known, later=later, recorded=recorded, held=held)


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
) -> tuple[tuple[KnownFile, ...], Files, Files]:
    """Return the files that the channel holds already, the new ones, and those that must wait for an interrupted call.

    Raises:
        UsageError: An interrupted call must go on with its own files, or a file has changed.
    """
    finished = [entry for inputs in _finished_calls(recorded) for entry in inputs]
    known: list[KnownFile] = []
    new: list[tuple[InputFile, InputRecord]] = []
    for file, entry in zip(files, record_inputs(files), strict=True):
        if held := _held(entry, finished):
            known.append(KnownFile(name=entry.name, recorded_name=held.name))
        else:
            new.append((file, entry))
    open_call = recorded.unfinished_append
    if open_call is not None and len(read_finished_parts(folder)) > open_call.first_part:
        again, later = _of_open_call(folder, open_call, new)
        return tuple(known), again, later
    if not accept_same_names:
        _check_names(finished, new)
    return tuple(known), tuple(file for file, _ in new), ()


def _held(entry: InputRecord, finished: Sequence[InputRecord]) -> InputRecord | None:
    """Return the file of the channel that has this content, the one of the same name if there are several."""
    found = [each for each in finished if each.has_content_of(entry)]
    return next((each for each in found if each.name == entry.name), found[0] if found else None)


def _of_open_call(
    folder: Path, call: AppendedFiles, new: Sequence[tuple[InputFile, InputRecord]]
) -> tuple[Files, Files]:
    """Return the files of an interrupted call, in its order, and the others.

    Raises:
        UsageError: A file of it is missing.
    """
    left, again = list(new), []
    for wanted in call.inputs:
        place = next((number for number, (_, entry) in enumerate(left) if entry.is_same_as(wanted)), None)
        if place is None:
            names = listed([f"{entry.name} ({entry.size:,} bytes)" for entry in call.inputs], 3)
            raise UsageError(
                f"{folder}: an earlier call that added {names} was interrupted, with some of its parts in the channel. "
                "Name these files again, unchanged, to go on with it."
            )
        again.append(left.pop(place)[0])
    return tuple(again), tuple(file for file, _ in left)


def _check_names(finished: Sequence[InputRecord], new: Sequence[tuple[InputFile, InputRecord]]) -> None:
    sizes = {entry.name: entry.size for entry in finished}
    for file, entry in new:
        if entry.name in sizes:
            there = f"{sizes[entry.name]:,}" + (" and other content" if sizes[entry.name] == entry.size else "")
            raise UsageError(
                f"{file} has {entry.size:,} bytes, and the channel holds a file of that name with {there}. If "
                "documents were added to it, those before would be in the channel twice: write the new ones into a "
                "file of their own. If it is another file, add --accept-same-names."
            )


def _finished_calls(recorded: RecordedSource) -> Iterator[Inputs]:
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
