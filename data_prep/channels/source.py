"""Remembers in `source.json` what a channel is made from, so that a second call continues it or leaves it alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_prep.channels.indexed_writer import read_finished_parts
from data_prep.channels.totals import Totals
from harness.channels.channels import PARTS_FILE
from harness.errors import DataError, UsageError
from harness.run.files import replace_file

SOURCE_FILE = "source.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that determines the parts. Equal sources give equal parts, byte for byte."""

    inputs: tuple[tuple[str, int], ...]
    """Name and size in bytes of each input file, in order (not the folder: corpora get moved)."""
    tokenizer: str
    """xxh3 of the tokenizer's file."""
    vocab_size: int
    text_key: str
    end_of_document_id: int | None
    """Token appended to every document; None for no token."""
    tokens_per_part: int
    max_document_tokens: int | None = None
    """Length above which a document is split or dropped; None where any length is kept."""
    long_documents: str = "keep"


@dataclass(frozen=True)
class RecordedSource:
    """The contents of `source.json`."""

    source: Source
    finished: Totals | None
    """Counts of the finished channel; None while work is left."""


def read_source(folder: Path) -> RecordedSource | None:
    """Return the recorded source of a channel folder; None for a bare prefix, or if another program made the channel.

    Raises:
        DataError: `source.json` is unreadable.
    """
    return _read(folder / SOURCE_FILE) if (folder / SOURCE_FILE).exists() else None


def open_source(folder: Path, source: Source) -> Totals | None:
    """Claim the folder for this source; return the totals if the channel is finished, None if work is left.

    Raises:
        UsageError: The folder holds a channel of another source, or parts of unknown origin.
        DataError: `source.json` is unreadable.
    """
    file = folder / SOURCE_FILE
    if not file.exists():
        if read_finished_parts(folder):
            raise UsageError(
                f"{folder} already holds parts that another program made ({PARTS_FILE} without {SOURCE_FILE}). "
                "They stay as they are. Choose another --output or --channel."
            )
        _write(file, source, finished=None)
        return None
    found = _read(file)
    recorded, finished = found.source, found.finished
    differences = [
        f"  {field.name}: there {_shown(getattr(recorded, field.name))}, now {_shown(getattr(source, field.name))}"
        for field in fields(Source)
        if getattr(recorded, field.name) != getattr(source, field.name)
    ]
    if differences:
        raise UsageError(
            f"{folder} already holds {'a' if finished else 'an unfinished'} channel made in another way:\n"
            + "\n".join(differences)
            + "\nNothing was changed. Choose another --output or --channel, or delete the folder to make it anew."
        )
    return finished


def finish_source(folder: Path, source: Source, totals: Totals) -> None:
    """Record that all input is in the parts."""
    _write(folder / SOURCE_FILE, source, finished=totals)


def _read(file: Path) -> RecordedSource:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        finished = content.pop("finished")
        inputs = tuple((str(name), int(size)) for name, size in content.pop("inputs"))
        return RecordedSource(Source(inputs=inputs, **content), Totals(**finished) if finished else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{file}: not readable ({error}). Was it edited? Restore it, or delete the channel folder to make it anew."
        ) from error


def _write(file: Path, source: Source, finished: Totals | None) -> None:
    content = asdict(source) | {"finished": asdict(finished) if finished else None}
    replace_file(file, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        names = ", ".join(f"{name} ({size} bytes)" for name, size in value[:3])
        return names if len(value) <= 3 else f"{names} and {len(value) - 3} more"
    return str(value)
