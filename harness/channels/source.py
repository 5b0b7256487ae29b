"""Reads `source.json` of a channel folder: what the channel was made from, and what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from harness.errors import DataError
from harness.json_text import parse_json
from harness.tokenizers.identity import TokenizerIdentity, recorded_identity

SOURCE_FILE = "source.json"


class InputRecord(NamedTuple):
    """An input file (not its folder: corpora get moved)."""

    name: str
    size: int
    """Bytes."""
    xxh3: str | None = None
    """Hash of its beginning and end; None in what earlier versions recorded."""

    def has_content_of(self, other: InputRecord) -> bool:
        """Return whether both are the same text as far as is known; files without a hash are known by their names."""
        if self.xxh3 is None or other.xxh3 is None:
            return (self.name, self.size) == (other.name, other.size)
        return (self.size, self.xxh3) == (other.size, other.xxh3)

    def is_same_as(self, other: InputRecord) -> bool:
        """Return whether both have the same name, too."""
        return self.name == other.name and self.has_content_of(other)


Inputs: TypeAlias = tuple[InputRecord, ...]
"""Input files in order."""


def are_same(one: Inputs, other: Inputs) -> bool:
    """Return whether both are the same files in the same order."""
    return len(one) == len(other) and all(map(InputRecord.is_same_as, one, other))


@dataclass
class Totals:
    """Running counts over the input, including what an earlier, interrupted call has written."""

    lines: int = 0
    rejected: int = 0
    """Lines that were not documents; they are listed in `rejected.jsonl`."""
    empty: int = 0
    """Blank lines, and documents without any text; they are left out, and not listed."""
    documents: int = 0
    tokens: int = 0
    """Tokens written, the end-of-document tokens included."""
    characters: int = 0
    """Unicode characters of the documents."""
    split: int = 0
    """Documents that were longer than allowed and were cut into several."""
    dropped: int = 0
    """Documents that were longer than allowed and were left out."""

    unknown_tokens: int = 0
    """Tokens that stand for no text: the tokenizer does not know what was there."""
    symbols_inside: int = 0
    """Tokens within documents that are the symbol put before or behind documents: text has become it."""
    decoded_characters: int = field(default=0, compare=False)
    """Characters of the documents that were decoded again, to see whether they come back."""
    lost_characters: int = 0
    """Characters among these, other than white space, that did not come back."""
    lost_white_space: int = 0
    """White space among these that did not come back."""

    def plus(self, other: Totals) -> Totals:
        """Return the counts of both."""
        names = [each.name for each in fields(Totals)]
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def lost_share(self) -> float:
        """Characters other than white space that do not come back, as a share of those that were looked at."""
        return self.lost_characters / self.decoded_characters if self.decoded_characters else 0.0

    @property
    def lost_white_space_share(self) -> float:
        """White space that does not come back, as a share of the characters that were looked at."""
        return self.lost_white_space / self.decoded_characters if self.decoded_characters else 0.0

    @property
    def unknown_share(self) -> float:
        """Tokens that stand for no text, as a share of all."""
        return self.unknown_tokens / self.tokens if self.tokens else 0.0

    @property
    def written_lines(self) -> int:
        """Lines read, without the empty ones."""
        return self.lines - self.empty

    @property
    def rejected_share(self) -> float:
        """Rejected lines, as a share of the lines that are not empty."""
        return self.rejected / self.written_lines if self.written_lines else 0.0

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters in a token: the first number to look at in a tokenizer."""
        return self.characters / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that determines the parts. Equal sources give equal parts, byte for byte."""

    inputs: Inputs
    tokenizer: TokenizerIdentity
    text_key: str
    end_of_document_id: int | None
    """Token appended to every document; None for no token."""
    tokens_per_part: int
    begin_of_document_id: int | None = None
    """Token put before every document; None for no token."""
    max_document_tokens: int | None = None
    """Length above which a document is split or dropped; None where any length is kept."""
    long_documents: str = "keep"


@dataclass(frozen=True, kw_only=True)
class AppendedFiles:
    """Files that a later call added to a finished channel, in the same way."""

    inputs: Inputs
    first_part: int
    """Parts that the channel had before."""
    rejected_bytes: int
    """Size of its list of rejected lines before."""
    finished: Totals | None = None
    """Counts of this call; None while work is left."""


@dataclass(frozen=True)
class RecordedSource:
    """The contents of `source.json`."""

    source: Source
    """The first call, whose settings all later ones keep."""
    totals: Totals | None
    """Counts of all calls that have finished; None while the first has not."""
    appended: tuple[AppendedFiles, ...] = ()

    @property
    def unfinished_append(self) -> AppendedFiles | None:
        """The call of `harness data append` that has not finished; None if all have."""
        return next((call for call in self.appended if call.finished is None), None)

    @property
    def finished(self) -> Totals | None:
        """Counts of the finished channel; None while work is left."""
        return None if self.unfinished_append else self.totals

    @property
    def inputs(self) -> Inputs:
        """Files of all calls."""
        return tuple(entry for inputs in self.calls for entry in inputs)

    @property
    def calls(self) -> tuple[Inputs, ...]:
        """Files of each call."""
        return (self.source.inputs, *(call.inputs for call in self.appended))


def read_source(folder: Path) -> RecordedSource | None:
    """Return the recorded source of a channel folder; None for a bare prefix, or if another program made the channel.

    Raises:
        DataError: `source.json` is unreadable.
    """
    return _read(folder / SOURCE_FILE) if (folder / SOURCE_FILE).exists() else None


def _read(file: Path) -> RecordedSource:
    try:
        content: dict[str, Any] = parse_json(file.read_bytes())
        finished = _totals(content.pop("finished"))
        inputs = _inputs(content.pop("inputs"))
        appended = tuple(_appended(call) for call in content.pop("appended", ()))
        tokenizer = _tokenizer(content.pop("tokenizer"), content.pop("vocab_size", None))
        source = Source(inputs=inputs, tokenizer=tokenizer, **content)
        return RecordedSource(source, finished, appended)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: not readable ({error}). Was it edited? Restore it, or delete the channel folder to make it anew."
        ) from error


def _inputs(record: Iterable[Sequence[Any]]) -> Inputs:
    return tuple(InputRecord(str(name), int(size), *xxh3) for name, size, *xxh3 in record)


def _totals(record: dict[str, int] | None) -> Totals | None:
    return Totals(**record) if record else None


def _appended(record: dict[str, Any]) -> AppendedFiles:
    inputs, finished = _inputs(record.pop("inputs")), _totals(record.pop("finished"))
    return AppendedFiles(inputs=inputs, finished=finished, **record)


def _tokenizer(record: object, vocab_size: object) -> TokenizerIdentity:
    """Return the recorded tokenizer. Earlier versions wrote the hash of its file, and the number of its ids beside."""
    if isinstance(record, str) and isinstance(vocab_size, int):
        return TokenizerIdentity(file="a file", xxh3=record, vocab_size=vocab_size)
    found = recorded_identity(record)
    if found is None:
        raise ValueError("it does not say which tokenizer made the channel")
    return found
