"""Channels: named lists of parts, from a folder with `parts.jsonl` or from one bare `.bin/.idx` prefix.

Opening a channel reads the list and checks the size of every file: two stat calls for each part, and no index.
`parts.jsonl` has one line for each finished part, in the order in which the parts are used:

    {"prefix": "part-00007", "tokens": 81920, "documents": 312, "bin_bytes": 163840, "xxh3": "0f3a…16 digits…"}

Lines are only appended to it. A last line without its newline is still being written, and its part does not exist yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from harness.channels.index_file import MOST_DOCUMENTS, read_index_header
from harness.channels.parts import MOST_BYTES, Part, beside, check_end, check_files, file_bytes
from harness.channels.regular_file import read_within
from harness.config.schema import ChannelConfig
from harness.errors import DataError
from harness.json_text import parse_json

PARTS_FILE = "parts.jsonl"
_KEYS = ("prefix", "tokens", "documents", "bin_bytes", "xxh3")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_XXH3 = re.compile(r"[0-9a-f]{16}")
_MAX_LINE_BYTES = 65536
_MOST_SHOWN = 80
_MOST_NAME = 200
"""Characters of a part's name: with `.bin` behind it, what a file system takes."""
_MOST_LIST_BYTES = 256 << 20
"""Two million parts, at the 120 bytes that a line has."""
_MOST = {"tokens": MOST_BYTES, "documents": MOST_DOCUMENTS, "bin_bytes": MOST_BYTES}


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A named source of documents."""

    name: str
    parts: tuple[Part, ...]
    """In the order in which they are used."""
    validation_parts: tuple[Part, ...] | None = None
    """Held-out documents of their own; none: a share of the first part is held out."""


def has_list(path: Path) -> bool:
    """Return whether there is a list of parts in a folder, also one that cannot be read, or a link to nothing.

    Raises:
        OSError: The disk does not say.
    """
    try:
        (path / PARTS_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a NUL is that of no file
        return False
    return True


class PartsDigest:
    """XXH3 of lines of a list of parts; equal for the same parts in the same order. More parts cost what they are."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64(b"[")
        self.num_parts = 0

    @property
    def text(self) -> str:
        """16 hex digits."""
        whole = self._hash.copy()
        whole.update(b"]")
        return whole.hexdigest()

    def followed_by(self, parts: Iterable[Part]) -> PartsDigest:
        """Return the digest with further parts behind."""
        return self.followed_by_rows(
            [part.name, part.num_tokens, part.num_documents, part.bin_bytes, part.xxh3] for part in parts
        )

    def followed_by_rows(self, rows: Iterable[Sequence[object]]) -> PartsDigest:
        """Return the digest with further parts behind: of each its name, tokens, documents, bytes and XXH3."""
        longer = PartsDigest()
        longer._hash, longer.num_parts = self._hash.copy(), self.num_parts
        for row in rows:
            longer._hash.update(f"{', ' if longer.num_parts else ''}{json.dumps(list(row))}".encode())
            longer.num_parts += 1
        return longer


def parts_digest(parts: Iterable[Part]) -> str:
    """Return the digest of parts as text, 16 hex digits."""
    return PartsDigest().followed_by(parts).text


class SeenLines:
    """The first lines of a channel's list, which are known: a look parses what is behind them only."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        """Names of the parts in these lines."""
        self._num_bytes = 0
        self._digest = ""

    def forget(self) -> None:
        """Know no lines any more."""
        self.names.clear()
        self._num_bytes, self._digest = 0, ""

    def see(self, content: bytes, parts: Iterable[Part]) -> None:
        """Know all whole lines of a list, which have these parts behind those that are known."""
        self.names.update(part.name for part in parts)
        self._num_bytes = content.rfind(b"\n") + 1
        self._digest = xxhash.xxh3_64_hexdigest(memoryview(content)[: self._num_bytes])

    def begin(self, content: bytes, num_parts: int) -> bool:
        """Return whether the list begins with these lines, which are those of `num_parts` parts."""
        if num_parts != len(self.names):
            return False
        return xxhash.xxh3_64_hexdigest(memoryview(content)[: self._num_bytes]) == self._digest

    def behind(self, content: bytes, folder: Path) -> tuple[Part, ...]:
        """Return the parts behind these lines in a list that begins with them.

        Raises:
            DataError: A line is malformed, or lists a part again.
        """
        lines = content[self._num_bytes :].split(b"\n")[:-1]
        return _parse_lines(lines, folder, offset=self._num_bytes, names=self.names)


def further_parts(channel: Channel, path: Path, seen: SeenLines | None = None) -> tuple[Part, ...]:
    """Return the parts that were appended to a channel's list; their lines are `seen` from then on.

    Raises:
        DataError: The list is unreadable, or says of a known part something else than before, or a new part's file is
            missing or of another size.
    """
    seen = SeenLines() if seen is None else seen
    content = _content(channel.name, path / PARTS_FILE)
    if seen.begin(content, len(channel.parts)):
        further = unseen = seen.behind(content, path)
    else:
        seen.forget()
        unseen = _parse_lines(content.split(b"\n")[:-1], path)
        further = _behind_known(channel, path, unseen)
    for part in further:
        check_files(part)
    seen.see(content, unseen)
    return further


def _behind_known(channel: Channel, path: Path, found: tuple[Part, ...]) -> tuple[Part, ...]:
    for number, (known, now) in enumerate(zip(channel.parts, found, strict=False)):
        if known != now:
            raise DataError(
                f"channel {channel.name}: line {number + 1} of {path / PARTS_FILE} was {_in_words(known)} and is now "
                f"{_in_words(now)}. Lines may only be appended to the list: restore it."
            )
    if len(found) < len(channel.parts):
        raise DataError(
            f"channel {channel.name}: {path / PARTS_FILE} has {len(found)} finished parts and had "
            f"{len(channel.parts)}. Lines may only be appended to the list: restore it."
        )
    return found[len(channel.parts) :]


def open_channel(name: str, config: ChannelConfig, num_parts: int | None = None) -> Channel:
    """List the parts of a channel and check that their files are there.

    With `num_parts`, which are used so far, those behind them are not looked at.

    Raises:
        DataError: A file is missing, unreadable or of another size, or the list is malformed, empty or too short.
    """
    validation = None if config.validation_path is None else _open_parts(f"{name} (validation)", config.validation_path)
    parts = _open_parts(name, config.path, num_parts)
    if len(parts) < (num_parts or 0):
        raise DataError(
            f"channel {name}: {config.path} has {len(parts)} finished parts, and the run has used {num_parts}. Put the "
            "missing ones back; lines may only be appended to a list of parts."
        )
    return Channel(name=name, parts=parts, validation_parts=validation)


def _open_parts(channel: str, path: Path, num_parts: int | None = None) -> tuple[Part, ...]:
    try:
        if has_list(path):
            return _read_parts(channel, path / PARTS_FILE, num_parts=num_parts)
        if beside(path, ".idx").exists():
            return (bare_part(path),)
    except OSError as error:
        raise DataError(f"channel {channel}: cannot look at {path}: {error.strerror or error}.") from error
    if path.is_dir():
        raise DataError(
            f"channel {channel}: there is no {PARTS_FILE} in {path}. A channel folder lists its finished parts there; "
            "make it with `harness data tokenize`, or give the prefix of one .bin/.idx pair."
        )
    raise DataError(
        f"channel {channel}: there is nothing at {path}. Give a folder with {PARTS_FILE}, "
        "or the prefix of a .bin/.idx pair without its ending."
    )


def bare_part(prefix: Path) -> Part:
    """Return a pair without a list as a part, counted by the header of its `.idx` and the size of its `.bin`.

    Raises:
        DataError: There is no such pair, or it is damaged.
    """
    part = Part(prefix=prefix, name=prefix.name, num_tokens=0, num_documents=0, bin_bytes=0, xxh3=None)
    header = read_index_header(part.idx_path)
    bin_bytes = file_bytes(part.bin_path)
    num_tokens, rest = divmod(bin_bytes, header.token_type.num_bytes)
    if rest:
        raise DataError(
            f"{part.bin_path} is truncated: {bin_bytes} bytes are not a whole number of {header.token_type.name} "
            "tokens. Copy or make it again."
        )
    part = replace(part, num_tokens=num_tokens, num_documents=header.num_documents, bin_bytes=bin_bytes)
    check_end(part, header)
    return part


def _in_words(part: Part) -> str:
    return f"{part.name} with {part.num_tokens} tokens, xxh3 {part.xxh3}"


def _read_parts(channel: str, path: Path, *, num_parts: int | None = None) -> tuple[Part, ...]:
    """Read the first `num_parts` parts of a list, or all, and check that their files are there."""
    content = _content(channel, path)
    parts = _parse_lines(content.split(b"\n")[:-1][:num_parts], path.parent)
    if not parts:
        half = " (its one line has no newline yet)" if content else ""
        raise DataError(
            f"channel {channel}: {path} lists no finished part{half}. Wait for the first part, or make one."
        )
    for part in parts:
        check_files(part)
    return parts


def _content(channel: str, path: Path) -> bytes:
    try:
        return read_within(path, _MOST_LIST_BYTES)
    except OSError as error:
        raise DataError(f"channel {channel}: cannot read {path}: {error.strerror or error}.") from error


def listed_parts(path: Path) -> tuple[Part, ...]:
    """Return the parts of a list. Their files are not looked at.

    Raises:
        OSError: The list cannot be read.
        DataError: A line is malformed, or lists a part again.
    """
    return _parse_lines(read_within(path, _MOST_LIST_BYTES).split(b"\n")[:-1], path.parent)


def _parse_lines(
    lines: Sequence[bytes], folder: Path, *, offset: int = 0, names: Collection[str] = ()
) -> tuple[Part, ...]:
    """Return the parts in lines of a list that begin at byte `offset`, behind the parts called `names`."""
    parts: dict[str, Part] = {}
    for number, line in enumerate(lines, start=len(names) + 1):
        place = f"{folder / PARTS_FILE}:{number} (byte {offset})"
        part = _parse_line(line, folder, place)
        if part.name in parts or part.name in names:
            raise DataError(f"{place}: part {part.name} is listed twice. Remove one of the two lines.")
        parts[part.name] = part
        offset += len(line) + 1
    return tuple(parts.values())


def _parse_line(line: bytes, folder: Path, place: str) -> Part:
    values = _load_object(line, place)
    if set(values) != set(_KEYS):
        raise DataError(f"{place}: the keys are {_quoted(values)[:_MOST_SHOWN]}; expected {_quoted(_KEYS)}.")
    name = values["prefix"]
    if not isinstance(name, str) or len(name) > _MOST_NAME or not _NAME.fullmatch(name):
        raise DataError(
            f"{place}: prefix is {_shown(name)}; expected the name of a part in this folder (letters, digits, `_`, "
            f"`-`, `.`; at most {_MOST_NAME} characters)."
        )
    for key, most in _MOST.items():
        if type(values[key]) is not int or not 0 <= values[key] <= most:
            raise DataError(
                f"{place}: {key} is {_shown(values[key])}; expected a whole number, 0 or more, up to {most}."
            )
    if not isinstance(values["xxh3"], str) or not _XXH3.fullmatch(values["xxh3"]):
        raise DataError(f"{place}: xxh3 is {_shown(values['xxh3'])}; expected 16 hexadecimal digits as text.")
    return Part(
        prefix=folder / name,
        name=name,
        num_tokens=values["tokens"],
        num_documents=values["documents"],
        bin_bytes=values["bin_bytes"],
        xxh3=values["xxh3"],
    )


def _load_object(line: bytes, place: str) -> dict[str, Any]:
    if len(line) > _MAX_LINE_BYTES:
        raise DataError(f"{place}: the line has {len(line)} bytes; a part's line has at most {_MAX_LINE_BYTES}.")
    try:
        values = parse_json(line, unique_keys=True)
    except ValueError as error:
        raise DataError(
            f"{place}: not a line of {PARTS_FILE}: {error}. Restore the line, or make the part again."
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{place}: not a JSON object: {_shown(line)}. Restore the line, or make the part again.")
    return values


def _shown(value: object) -> str:
    """Return a value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
