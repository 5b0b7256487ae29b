"""The channel of a source: what it would be made of, what is there, and making it or adding to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from data_prep.channels.append_files import opened_append
from data_prep.channels.borders import Borders, NamedBorders, choose_borders, treatment_of_long
from data_prep.channels.channel_job import ChannelJob
from data_prep.channels.indexed_writer import read_finished_parts
from data_prep.channels.prepared import prepared
from data_prep.channels.source import difference_words, differing
from data_prep.channels.tokenize_channel import ChannelResult, source_of, tokenize_channel
from data_prep.corpus.tokenize_config import TokenizeConfig
from data_prep.text.input_file import InputFile
from harness.channels.source import InputRecord, RecordedSource, Source, Totals, read_source
from harness.say import say
from harness.tokenizers.identity import identity_of
from harness.tokenizers.tokenizer import Tokenizer, open_tokenizer

There = Literal["nothing", "all", "begun", "less", "something else"]
"""Of a channel: `less` is a finished one to which files have to be added."""
NO_INFLUENCE = frozenset({"encoder", "max_rejected_share", "max_lost_share", "output"})
"""Options that decide how a channel is made, and not what is in it."""


@dataclass(frozen=True)
class Found:
    """Content of a channel's folder, beside what should be there."""

    there: There
    why: str = ""
    has_parts: bool = False
    """A run may train on it."""


@dataclass(frozen=True, kw_only=True)
class ChannelWork:
    """A channel to make of files, or to add files to."""

    files: Sequence[InputFile]
    folder: Path
    text_key: str
    config: TokenizeConfig

    @property
    def title(self) -> str:
        """Name for people."""
        return f"tokenize {self.folder.name}"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The open tokenizer."""
        return open_tokenizer(self.config.tokenizer, needs_end=False)

    @cached_property
    def borders(self) -> Borders:
        """Symbols around documents."""
        config = self.config
        named = NamedBorders(append_eod=config.append_eod, end=config.end_of_document, begin=config.begin_of_document)
        return choose_borders(self.tokenizer, named, config.max_document_tokens)

    @cached_property
    def job(self) -> ChannelJob:
        """The same for the writer of channels.

        Raises:
            HarnessError: The options do not fit each other, or the tokenizer.
        """
        config, borders = self.config, self.borders
        return ChannelJob(
            inputs=self.files,
            folder=self.folder,
            text_key=self.text_key,
            tokens_per_part=config.tokens_per_part,
            append_end_of_document=config.append_eod,
            end_of_document_id=borders.end.id if borders.end else None,
            begin_of_document_id=borders.begin.id if borders.begin else None,
            max_document_tokens=config.max_document_tokens,
            long_documents=treatment_of_long(config.max_document_tokens, config.long_documents),
            max_rejected_share=config.max_rejected_share,
            max_lost_share=config.max_lost_share,
        )

    def require_fitting(self) -> None:
        """Check, before hours of work, that the tokenizer can be opened and the options fit it.

        Raises:
            HarnessError: They do not.
        """
        _ = self.job

    @property
    def settings(self) -> dict[str, Any]:
        """All that the channel depends on besides the files, and its place."""
        options = self.config.model_dump(mode="json", exclude={*NO_INFLUENCE, "tokenizer"})
        identity = identity_of(self.tokenizer)
        return {"tokenize": options, "tokenizer": identity.as_json(), "channel": str(self.folder)}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it opens the tokenizer itself."""
        return {name: getattr(self, name) for name in ("files", "folder", "text_key", "config")}


def look_at(work: ChannelWork) -> Found:
    """Compare what is in the channel's folder with what should be.

    Raises:
        HarnessError: The tokenizer cannot be opened, or the record of the channel cannot be read.
    """
    recorded = read_source(work.folder)
    if recorded is None:
        return Found("nothing")
    parts = read_finished_parts(work.folder)
    source = source_of(work.job, work.tokenizer)
    there = differing(recorded, source)
    if not there:
        is_whole = recorded.finished is not None
        return Found("all" if is_whole else "begun", "" if is_whole else "interrupted", bool(parts))
    if [*there] == ["inputs"] and (new := _new_files(recorded, source)) is not None:
        return Found("less", f"{new:,} new input file{'' if new == 1 else 's'} to add", bool(parts))
    words = difference_words({name: each for name, each in there.items() if name != "inputs"}, source)
    other_text = ["it was made of other text"] if "inputs" in there else []
    return Found("something else", "; ".join([*words, *other_text]), bool(parts))


def _new_files(recorded: RecordedSource, source: Source) -> int | None:
    """Return how many files a finished channel has not got; None if it holds something else, too."""
    if recorded.totals is None:
        return None
    held = [entry for call in recorded.calls for entry in call]
    # Earlier versions recorded no hashes: of such a channel it is not known.
    if any(entry.xxh3 is None for entry in held):
        return None
    now = Counter[InputRecord](source.inputs)
    if Counter[InputRecord](held) - now:
        return None
    return now.total() - len(held)


def describe(folder: Path) -> str:
    """Return what a finished channel holds, in a few lines."""
    recorded = read_source(folder)
    totals = (recorded.finished if recorded else None) or Totals()
    return ChannelResult(totals, len(read_finished_parts(folder)), was_there=False).summary(folder)


def make_channel(work: ChannelWork) -> Totals:
    """Make the channel, go on with it, or add files to it. Says what it does, and shows progress.

    Raises:
        HarnessError: See `tokenize_channel` and `opened_append`.
    """
    for note in work.borders.notes:
        say(f"{work.title}: {note}", err=True)
    recorded = read_source(work.folder)
    is_addition = recorded is not None and (recorded.unfinished_append is not None or look_at(work).there == "less")
    if is_addition:
        return _add(work)
    with prepared(work.title, work.job, work.tokenizer, work.config.encoder) as (progress, chosen):
        return tokenize_channel(work.job, work.tokenizer, progress, chosen).totals


def _add(work: ChannelWork) -> Totals:
    files, totals = list(work.files), Totals()
    while files:
        with opened_append(work.folder, files, work.tokenizer) as call:
            totals = call.recorded.totals or totals
            if not call.job.inputs:
                break
            job = replace(
                call.job,
                max_rejected_share=work.config.max_rejected_share,
                max_lost_share=work.config.max_lost_share,
            )
            with prepared(work.title, job, work.tokenizer, work.config.encoder) as (progress, chosen):
                result = replace(call, job=job).run(work.tokenizer, progress, chosen)
        totals, files = result.channel, list(call.later)
    return totals
