"""Records in `resume.jsonl` how much of the input each finished part holds, so that the next call continues there.

One JSON object a line, one line for each part, on disk before the part's own line in `parts.jsonl`:

    {"prefix": "part-00000", "batch": {"file": 0, "place": {"line": …, "byte": …, "before": "…"}, …}, "documents": 17,
     "split": 0, "dropped": 0, …}

The part ends `documents` documents after the beginning of the batch; `batch` is a `ReadState`, the rest
`DocumentCounts`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_prep.channels.document_counts import DocumentCounts
from data_prep.channels.indexed_writer import FinishedPart, read_finished_parts
from data_prep.text.own_json import MOST_BYTES, counts_of, fields_of, text_of
from data_prep.text.read_documents import TAIL_BYTES, Place
from data_prep.text.reader import ReadState
from harness.channels.source import RecordedSource, Totals
from harness.errors import DataError
from harness.json_text import parse_json
from harness.run.files import read_regular, replace_file

RESUME_FILE = "resume.jsonl"


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Place in the input at which a part ends."""

    batch: ReadState = ReadState()
    """The border before the batch in which it ends."""
    documents: int = 0
    """Documents of that batch that are in the part or before it."""
    counts: DocumentCounts = DocumentCounts()
    """Counts so far, in all parts."""


def read_resume_point(folder: Path, parts: Sequence[FinishedPart]) -> ResumePoint:
    """Return the place at which the last finished part ends.

    Raises:
        DataError: There is no readable line for it.
    """
    if not parts:
        return ResumePoint()
    file = folder / RESUME_FILE
    try:
        return _from_json(_lines(file)[parts[-1].prefix])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file}: it does not say where in the input {parts[-1].prefix} ends ({type(error).__name__}: {error}). "
            "Was it edited, or the channel begun by an older version? Delete the channel folder to make it anew."
        ) from error


def totals_so_far(folder: Path, recorded: RecordedSource) -> Totals:
    """Return the counts of what is in a channel, finished or not.

    Of an unfinished call they are those of its finished parts; its lines and characters are counted up to the batch of
    documents in which the last part ends.

    Raises:
        DataError: A part is missing, or it is not recorded where it ends.
    """
    finished = recorded.totals or Totals()
    call = recorded.unfinished_append
    if recorded.finished:
        return finished
    parts = read_finished_parts(folder)
    first_part = call.first_part if call else 0
    if len(parts) <= first_part:
        return finished
    point = read_resume_point(folder, parts)
    read = point.batch
    return finished.plus(
        Totals(
            lines=read.lines,
            rejected=read.rejected,
            empty=read.empty,
            documents=read.documents + point.documents,
            tokens=sum(part.tokens for part in parts[first_part:]),
            characters=read.characters,
            **asdict(point.counts),
        )
    )


def write_resume_point(folder: Path, prefix: str, point: ResumePoint) -> None:
    """Record where a part ends, before the part becomes valid; replace what a killed call wrote for the same part.

    Raises:
        DataError: What is there is not readable.
        OSError: From the disk.
    """
    try:
        lines = _lines(folder / RESUME_FILE) if os.path.lexists(folder / RESUME_FILE) else {}
    except ValueError as error:
        raise DataError(
            f"{folder / RESUME_FILE}: not readable ({error}). Was it edited? Restore it, or delete the channel folder "
            "to make it anew."
        ) from error
    kept = {name: line for name, line in lines.items() if name < prefix}
    place = {"batch": asdict(point.batch), "documents": point.documents}
    kept[prefix] = {"prefix": prefix} | place | asdict(point.counts)
    replace_file(folder / RESUME_FILE, b"".join(json.dumps(line).encode() + b"\n" for line in kept.values()))


def _lines(file: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of the file by the part.

    Raises:
        OSError: It cannot be read, or is a link or no regular file.
        ValueError: A line is no JSON object, or of no part.
    """
    content = read_regular(file, MOST_BYTES)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    lines = [fields_of(parse_json(line), f"line {number}") for number, line in enumerate(content.splitlines(), start=1)]
    return {text_of(line.get("prefix"), "prefix"): line for line in lines}


def _from_json(line: dict[str, Any]) -> ResumePoint:
    """Return what a line says.

    Raises:
        ValueError, TypeError, KeyError: It does not say it.
    """
    batch = fields_of(line["batch"], "batch")
    place = fields_of(batch.pop("place"), "place")
    before = text_of(place.pop("before"), "before")
    if len(bytes.fromhex(before)) > TAIL_BYTES:
        raise ValueError(f"before has more than {TAIL_BYTES} bytes")
    # Earlier versions counted less.
    counts = {field.name: line.get(field.name, 0) for field in fields(DocumentCounts)}
    return ResumePoint(
        batch=ReadState(place=Place(before=before, **counts_of(place)), **counts_of(batch)),
        documents=counts_of({"documents": line["documents"]})["documents"],
        counts=DocumentCounts(**counts_of(counts)),
    )
