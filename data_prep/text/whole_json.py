"""Recognizes files that are one JSON value, where lines of JSON are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from data_prep.text.input_file import InputFile
from data_prep.text.packed_file import open_plain
from harness.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LOOKED_AT_BYTES = 1 << 20

WholeJson = Literal["array", "object"]


def whole_json(lines: Sequence[bytes]) -> WholeJson | None:
    """Return the value that a file is, by its first lines that are not blank; None if it may be lines of JSON."""
    first, second = (line.strip() for line in (*lines, b"", b"")[:2])
    if first.startswith(b"["):
        return "array" if first[1:].lstrip()[:1] in (b"", b"{", b"[", b'"', b"]") else None
    # The first line of a pretty-printed object opens it, or ends behind its first entry; the second is within it.
    is_open = first.startswith(b"{") and first.endswith((b"{", b",", b"[", b":"))
    return "object" if is_open and second.startswith((b'"', b"{", b"[")) and not _is_json(second) else None


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)  # noqa: TID251 (a record of the user, taken as it is)
    except (ValueError, RecursionError):
        return False


def are_carriage_returns(line: bytes) -> bool:
    """Return whether a line is several lines of JSON, with carriage returns alone between them."""
    first, separator, rest = line.removeprefix(BYTE_ORDER_MARK).strip().partition(b"\r")
    return bool(separator) and bool(rest.strip()) and _is_json(first)


def whole_json_of(file: InputFile) -> WholeJson | None:
    """Return the value that a file is; None if it may be lines of JSON.

    Raises:
        DataError: It cannot be read.
        UsageError: A package for it is not installed.
    """
    lines: list[bytes] = []
    with open_plain(file, lambda: "line 0") as (stream, _):
        left = LOOKED_AT_BYTES
        while len(lines) < 2 and left > 0 and (line := stream.readline(left)):
            left -= len(line)
            line = line.removeprefix(BYTE_ORDER_MARK)
            lines += [line] if line.strip() else []
    return whole_json(lines)


def refuse_whole_json(file: InputFile) -> None:
    """Refuse a file that is one JSON value.

    Raises:
        DataError: It is one, or cannot be read.
        UsageError: A package for it is not installed.
    """
    found = whole_json_of(file)
    if found is None:
        return
    kind, program = ("a JSON array", ".[]") if found == "array" else ("a JSON object over several lines", ".")
    raise DataError(
        f"{file}: the file is {kind}. Read are lines of JSON: one object with a text on each line. Make such a file of "
        f"it, for example with `jq -c '{program}' {file.name} > lines.jsonl`, or leave it out."
    )
