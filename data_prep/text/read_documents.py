"""Reads documents from files in order, and gives a reason for every line (or row) that is not a document.

A line is one JSON object whose text key holds the document; `data_prep.text.packed_file` unpacks the file, and
`data_prep.text.parquet` reads Parquet. A bad line is a record with a reason, never an exception. A damaged compressed
file is an error, because the amount of missing text is unknown, and so is a file that is one JSON value as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from data_prep.text.file_kinds import kind_of
from data_prep.text.input_file import InputFile
from data_prep.text.packed_file import open_plain
from data_prep.text.record_names import NO_NAMES, NameKeys, name_in
from data_prep.text.text_key import path_in, value_at, with_value
from data_prep.text.whole_json import BYTE_ORDER_MARK, are_carriage_returns, refuse_whole_json
from harness.errors import DataError
from harness.json_text import MOST_DEPTH, JsonError, require_shallow
from harness.text import size_text

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is rejected unread: memory stays bounded, and no honest document is as long as that."""

MAX_STRUCTURE = 4 * 1024 * 1024
"""Characters of a line outside of its texts, and number of its texts. Each may cost twenty times its size in memory."""

_MOST_SKIPPED = 1 << 30
"""Bytes of a line that are looked through for its end, behind those that a document may have."""

TAIL_BYTES = 64

_HAS_SPELT_KEY = re.compile(r'"[^"\\]*\\[^"]*"\s*:').search
"""Finds what may be a key with a character that is spelt otherwise (`"te\\u0078t":`)."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason why a line is not a document."""

    reason: str

    @property
    def is_empty(self) -> bool:
        """True if nothing was written there: no text is lost without the line, and nothing is wrong with it."""
        return self in (EMPTY_LINE, EMPTY_TEXT)


EMPTY_LINE = Rejection("empty line")
EMPTY_TEXT = Rejection("empty text")
TOO_DEEP = Rejection("not JSON (nested too deeply)")
CARRIAGE_RETURNS = Rejection(
    "not JSON (the lines end with carriage returns alone; read are lines that end with a line feed)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A border between two lines of a file, from which reading can continue."""

    line: int = 0
    """Lines (or rows) before it."""
    byte: int = 0
    """Plain bytes before it (0 in a Parquet file)."""
    before: str = ""
    """Up to 64 of the plain bytes before it, in hexadecimal: they must still be there."""


BEGINNING = Place()


class Record(NamedTuple):
    """One line of an input file: a document, or the reason why it is not one."""

    file: InputFile
    line: int
    """Line (or row) number in the file, 1-based."""
    content: str | Rejection
    """The document, or the reason why the line is not one."""
    file_bytes_read: int
    """Bytes of the file on disk (compressed, if it is) that have been read when this line is reached."""
    end_byte: int
    """Plain bytes of the file up to the end of this line."""
    tail: bytes
    """The last bytes of the line."""
    raw: bytes = b""
    """The line itself. For Parquet a line with the same content, or empty if it was not asked for."""
    name: str = ""
    """The record's id or URL, if it was asked for and the record has one."""

    @property
    def end(self) -> Place:
        """The border behind this line."""
        return Place(self.line, self.end_byte, self.tail.hex())


def read_records(
    file: InputFile,
    text_key: str,
    max_line_bytes: int = MAX_LINE_BYTES,
    start: Place = BEGINNING,
    whole_rows: bool = False,
    names: NameKeys = NO_NAMES,
) -> Generator[Record, None, None]:
    """Yield one record per line of a file, from `start` on; a line longer than `max_line_bytes` is rejected unread.

    With `whole_rows` the other columns of a Parquet file are read too, for the `raw` line of the record. `names` are
    keys of the record's id or URL.

    Raises:
        DataError: The file cannot be read to its end (damaged or truncated compression, I/O error, a line of more than
            a gigabyte), is one JSON value as a whole, or is not the one in which `start` was found.
        UsageError: The file is zstandard or Parquet and the package is not installed.
    """
    kind = kind_of(file.name)
    if kind and kind.content == "parquet":
        from data_prep.text.parquet import read_rows

        for row in read_rows(file, text_key, start.line, whole_rows, NO_NAMES if whole_rows else names):
            text = _text_of_row(row.content, text_key, max_line_bytes)
            content = check_text(text) if isinstance(text, str) else text
            is_written = whole_rows and isinstance(content, str)
            raw = _as_line(with_text(row.whole, text_key, content)) if is_written else b""
            yield Record(file, row.number, content, row.file_bytes_read, 0, b"", raw, row.name)
        return
    yield from _read_lines(file, text_key, max_line_bytes, start, names)


def _text_of_row(content: bytes | None, text_key: str, max_bytes: int) -> str | Rejection:
    if content is None:
        return Rejection(f"{text_key!r} is not text")
    return _too_long(max_bytes) if len(content) > max_bytes else _decoded(content)


def _read_lines(file: InputFile, text_key: str, max_line_bytes: int, start: Place, names: NameKeys) -> Iterator[Record]:
    if start == BEGINNING:
        refuse_whole_json(file)
    line, end_byte = start.line, start.byte
    with open_plain(file, lambda: f"line {line}") as (stream, raw):
        _go_to(stream, start, file)
        while content := stream.readline(max_line_bytes + 1):
            line += 1
            end_byte += len(content)
            parsed: str | Rejection
            name = ""
            if len(content) > max_line_bytes and not content.endswith(b"\n"):
                end_byte += skip_to_line_end(stream, max_line_bytes, f"{file}: line {line}")
                parsed = CARRIAGE_RETURNS if are_carriage_returns(content) else _too_long(max_line_bytes)
                content = b""
            else:
                plain = content.removeprefix(BYTE_ORDER_MARK) if line == 1 else content
                parsed, name = parse_record(plain, text_key, names)
            yield Record(file, line, parsed, raw.tell(), end_byte, content[-TAIL_BYTES:], content, name)


def _go_to(stream: IO[bytes], start: Place, file: InputFile) -> None:
    """Move to a place, by seeking in a plain file and by reading in a compressed one.

    Raises:
        DataError: The bytes before that place have changed.
    """
    before = bytes.fromhex(start.before)
    skipped = start.byte - len(before)
    if stream.seekable():
        stream.seek(skipped)
    while not stream.seekable() and skipped > 0 and (piece := stream.read(min(skipped, 1 << 20))):
        skipped -= len(piece)
    if stream.read(len(before)) != before:
        raise DataError(
            f"{file}: byte {start.byte} is no longer the end of line {start.line}, where the interrupted call was. "
            "The input was changed: delete the channel folder to make it anew."
        )


def _too_long(max_line_bytes: int) -> Rejection:
    return Rejection(f"longer than {max_line_bytes} bytes")


def _as_line(row: Mapping[str, object]) -> bytes:
    """Return a row of a Parquet file as a line of JSON; types that JSON lacks (times, bytes) become text."""
    return json.dumps(row, ensure_ascii=False, default=_as_text).encode("utf-8", "replace") + b"\n"


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def parse_line(content: bytes, text_key: str) -> str | Rejection:
    """Return the document that a line of JSON holds, or a rejection with the reason."""
    return parse_record(content, text_key)[0]


def parse_record(content: bytes, text_key: str, names: NameKeys = NO_NAMES) -> tuple[str | Rejection, str]:
    """Return the document that a line of JSON holds, or a rejection with the reason, and the record's id or URL."""
    line = _decoded(content)
    if isinstance(line, Rejection):
        return line, ""
    if not line or line.isspace():
        return EMPTY_LINE, ""
    value = _value_of(line, content)
    if isinstance(value, Rejection):
        return value, ""
    if not isinstance(value, dict):
        return Rejection("not a JSON object"), ""
    return _text_in(value, line, text_key), name_in(value, names)


def _text_in(value: dict[str, Any], line: str, text_key: str) -> str | Rejection:
    path = path_in(value, text_key)
    if path is None:
        return Rejection(f"no key {text_key!r}")
    twice = next((name for name in path if _may_occur_twice(line, name) and _occurs_twice(line, name)), None)
    if twice is not None:
        return Rejection(f"key {twice!r} occurs twice in an object")
    text = value_at(value, path)
    return check_text(text) if isinstance(text, str) else Rejection(f"{text_key!r} is not text")


def _value_of(line: str, content: bytes) -> Any:  # noqa: ANN401 - any JSON value, or a rejection
    """Return the value that a line holds, which is the user's: what JSON lacks, as `NaN`, is taken as it is."""
    if len(line) > MAX_STRUCTURE and _is_mostly_structure(line):
        return Rejection(f"more than {MAX_STRUCTURE} characters, or as many texts, beside the text")
    try:
        value = json.loads(line)  # noqa: TID251 (a record of the user, taken as it is)
    except ValueError as error:
        return CARRIAGE_RETURNS if are_carriage_returns(content) else Rejection(f"not JSON ({error})")
    except RecursionError:
        return TOO_DEEP
    if line.count("[") + line.count("{") > MOST_DEPTH:
        try:
            require_shallow(value)
        except JsonError:
            return TOO_DEEP
    return value


def _is_mostly_structure(line: str) -> bool:
    """Return whether a long line has too much beside its texts: lists, numbers, short texts."""
    line = line.replace("\\\\", "").replace('\\"', "")
    if line.count('"') > MAX_STRUCTURE:
        return True
    return sum(map(len, line.split('"')[::2])) > MAX_STRUCTURE


def _may_occur_twice(line: str, key: str) -> bool:
    """Return whether it is worth parsing the line again; almost always it is not."""
    spelt = f'"{key}"'
    return line.count(spelt) > 1 or _HAS_SPELT_KEY(line) is not None or json.dumps(key, ensure_ascii=False) != spelt


def _occurs_twice(line: str, key: str) -> bool:
    """Return whether an object of the line has a key twice: the parser would take the last without a word."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or sum(name == key for name, _ in pairs) > 1
        return dict(pairs)

    json.loads(line, object_pairs_hook=look)  # noqa: TID251 (a record of the user, taken as it is)
    return found


def with_text(record: Mapping[str, Any], text_key: str, text: object) -> dict[str, Any]:
    """Return a copy of a record that holds another text under its key."""
    return with_value(record, path_in(record, text_key) or (text_key,), text)


def _decoded(content: bytes) -> str | Rejection:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Rejection(f"not UTF-8 (byte 0x{content[error.start]:02x} at position {error.start})")


def check_text(text: str) -> str | Rejection:
    """Return the text if it is not blank and can be written as UTF-8, else the reason."""
    if not text or text.isspace():
        return EMPTY_TEXT
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair ("\ud800"); no byte sequence stands for it.
        return Rejection(f"not valid Unicode (lone surrogate at position {error.start})")
    return text


def skip_to_line_end(stream: IO[bytes], piece_bytes: int, place: str) -> int:
    """Read to the end of a line, or of the file, in pieces, and return the number of bytes.

    Raises:
        DataError: The line has no end for a gigabyte; `place` says which.
    """
    skipped = 0
    while piece := stream.readline(piece_bytes):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
        if skipped > _MOST_SKIPPED:
            raise DataError(
                f"{place} has no end for {size_text(_MOST_SKIPPED)}. This is no file of lines that end with a line "
                "feed: leave it out."
            )
    return skipped
