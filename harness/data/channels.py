"""Channels: named lists of parts, from a folder with `parts.jsonl` or from one bare `.bin/.idx` prefix.

Opening reads the list and looks at the size of every file: two stat calls a part, no index. `parts.jsonl` has one
line for each finished part, in the order in which the parts are used:

    {"prefix": "part-00007", "tokens": 81920, "documents": 312, "bin_bytes": 163840, "xxh3": "0f3a…16 digits…"}

It is only ever appended to. A last line without its newline is being written: its part does not exist yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import ChannelConfig
from harness.data.index_file import read_index_header
from harness.data.parts import Part, check_files, file_bytes
from harness.errors import DataError

PARTS_FILE = "parts.jsonl"
_KEYS = ("prefix", "tokens", "documents", "bin_bytes", "xxh3")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_XXH3 = re.compile(r"[0-9a-f]{16}")
_MAX_LINE_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A named source of documents."""

    name: str
    parts: tuple[Part, ...]
    """In the order in which they are used."""
    validation_parts: tuple[Part, ...] | None = None
    """Held-out documents of their own; none: a share of the first part is held out."""


def open_channel(name: str, config: ChannelConfig) -> Channel:
    """List the parts of a channel and check that their files are there.

    Raises:
        DataError: A file is missing, unreadable or of another size, or the list is malformed or empty.
    """
    validation = None if config.validation_path is None else _open_parts(f"{name} (validation)", config.validation_path)
    return Channel(name=name, parts=_open_parts(name, config.path), validation_parts=validation)


def _open_parts(channel: str, path: Path) -> tuple[Part, ...]:
    try:
        if (path / PARTS_FILE).exists():
            return _read_parts(channel, path / PARTS_FILE)
        if path.with_name(path.name + ".idx").exists():
            return (_bare_part(path),)
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


def _bare_part(prefix: Path) -> Part:
    """A pair without a list: documents from the header of the `.idx`, tokens from the size of the `.bin`."""
    part = Part(prefix=prefix, name=prefix.name, num_tokens=0, num_documents=0, bin_bytes=0, xxh3=None)
    header = read_index_header(part.idx_path)
    bin_bytes = file_bytes(part.bin_path)
    num_tokens, rest = divmod(bin_bytes, header.token_type.num_bytes)
    if rest:
        raise DataError(
            f"{part.bin_path} is truncated: {bin_bytes} bytes are no whole number of {header.token_type.name} tokens. "
            "Copy or make it again."
        )
    return Part(
        prefix=prefix,
        name=prefix.name,
        num_tokens=num_tokens,
        num_documents=header.num_documents,
        bin_bytes=bin_bytes,
        xxh3=None,
    )


def _read_parts(channel: str, path: Path) -> tuple[Part, ...]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"channel {channel}: cannot read {path}: {error.strerror or error}.") from error
    *lines, unfinished = content.split(b"\n")
    parts: dict[str, Part] = {}
    offset = 0
    for number, line in enumerate(lines, start=1):
        place = f"{path}:{number} (byte {offset})"
        part = _parse_line(line, path.parent, place)
        if part.name in parts:
            raise DataError(f"{place}: part {part.name} is listed twice. Remove one of the two lines.")
        check_files(part)
        parts[part.name] = part
        offset += len(line) + 1
    if not parts:
        half = " (its one line has no newline yet)" if unfinished else ""
        raise DataError(
            f"channel {channel}: {path} lists no finished part{half}. Wait for the first part, or make one."
        )
    return tuple(parts.values())


def _parse_line(line: bytes, folder: Path, place: str) -> Part:
    values = _load_object(line, place)
    if set(values) != set(_KEYS):
        raise DataError(f"{place}: the keys are {_quoted(values)}; expected {_quoted(_KEYS)}.")
    name = values["prefix"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(
            f"{place}: prefix is {name!r}; expected the name of a part in this folder (letters, digits, `_`, `-`, `.`)."
        )
    for key in ("tokens", "documents", "bin_bytes"):
        if type(values[key]) is not int or values[key] < 0:
            raise DataError(f"{place}: {key} is {values[key]!r}; expected a whole number, 0 or more.")
    if not isinstance(values["xxh3"], str) or not _XXH3.fullmatch(values["xxh3"]):
        raise DataError(f"{place}: xxh3 is {values['xxh3']!r}; expected 16 hexadecimal digits as text.")
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
        values = json.loads(line.decode("utf-8"), object_pairs_hook=_refuse_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place}: not a line of {PARTS_FILE}: {error}. Restore the line, or make the part again."
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{place}: not a JSON object: {line[:80]!r}. Restore the line, or make the part again.")
    return values


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key occurs twice among {_quoted(key for key, _ in pairs)}")
    return values


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
