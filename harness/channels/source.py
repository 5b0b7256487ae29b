"""Reads `source.json` of a channel folder: what the channel was made from, and what is in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.channels.regular_file import read_within
from harness.errors import DataError
from harness.json_text import parse_json
from harness.tokenizers.identity import TokenizerIdentity, recorded_identity

SOURCE_FILE = "source.json"
_MOST_BYTES = 128 << 20
"""A record of a million input files."""
_MISSING = "missing"
Count = Annotated[int, Field(ge=0, le=1 << 53)]
"""A number of things: up to what every reader of JSON holds exactly."""


class InputRecord(NamedTuple):
    """An input file (not its folder: corpora get moved)."""

    name: str
    size: Count
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

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    lines: Count = 0
    rejected: Count = 0
    """Lines that were not documents; they are listed in `rejected.jsonl`."""
    empty: Count = 0
    """Blank lines, and documents without any text; they are left out, and not listed."""
    documents: Count = 0
    tokens: Count = 0
    """Tokens written, the end-of-document tokens included."""
    characters: Count = 0
    """Unicode characters of the documents."""
    split: Count = 0
    """Documents that were longer than allowed and were cut into several."""
    dropped: Count = 0
    """Documents that were longer than allowed and were left out."""

    unknown_tokens: Count = 0
    """Tokens that stand for no text: the tokenizer does not know what was there."""
    symbols_inside: Count = 0
    """Tokens within documents that are the symbol put before or behind documents: text has become it."""
    decoded_characters: Count = field(default=0, compare=False)
    """Characters of the documents that were decoded again, to see whether they come back."""
    lost_characters: Count = 0
    """Characters among these, other than white space, that did not come back."""
    lost_white_space: Count = 0
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

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    inputs: Inputs
    tokenizer: TokenizerIdentity
    text_key: str
    end_of_document_id: Count | None
    """Token appended to every document; None for no token."""
    tokens_per_part: Count
    begin_of_document_id: Count | None = None
    """Token put before every document; None for no token."""
    max_document_tokens: Count | None = None
    """Length above which a document is split or dropped; None where any length is kept."""
    long_documents: str = "keep"


@dataclass(frozen=True, kw_only=True)
class AppendedFiles:
    """Files that a later call added to a finished channel, in the same way."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    inputs: Inputs
    first_part: Count
    """Parts that the channel had before."""
    rejected_bytes: Count
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
    file = folder / SOURCE_FILE
    try:
        return _parsed(read_within(file, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise DataError(
            f"{file}: not readable ({reason}). Was it edited? Restore it, or delete the channel folder to make it anew."
        ) from error


def _parsed(text: bytes) -> RecordedSource:
    """Return the contents of the file.

    Raises:
        ValueError: It is no record of a source, in one line.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"not an object, but {type(content).__name__}")
    content["tokenizer"] = asdict(_tokenizer(content.get("tokenizer"), content.pop("vocab_size", None)))
    apart = {name: content.pop(name, empty) for name, empty in (("finished", _MISSING), ("appended", []))}
    return RecordedSource(
        source=_checked("source", Source, content),
        totals=_checked("finished", Totals | None, apart["finished"]),
        appended=_checked("appended", tuple[AppendedFiles, ...], apart["appended"]),
    )


def _checked(name: str, kind: Any, value: object) -> Any:  # noqa: ANN401 (the type of a field)
    """Return a JSON value as the type that it must have, and no other: true is no number.

    Raises:
        ValueError: It has another one.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False)
        place = ".".join(map(str, first["loc"])) or name
        raise ValueError(f"{place}: {first['msg']}") from None


def _tokenizer(record: object, vocab_size: object) -> TokenizerIdentity:
    """Return the recorded tokenizer. Earlier versions wrote the hash of its file, and the number of its ids beside."""
    if isinstance(record, str) and isinstance(vocab_size, int):
        return TokenizerIdentity(file="a file", xxh3=record, vocab_size=vocab_size)
    found = recorded_identity(record)
    if found is None:
        raise ValueError("it does not say which tokenizer made the channel")
    return found
