"""Claims a channel folder for a source, so that a second call continues it or leaves it alone."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from data_prep.channels.indexed_writer import read_finished_parts
from harness.channels.channels import PARTS_FILE
from harness.channels.source import SOURCE_FILE, Source, Totals, read_source
from harness.errors import UsageError
from harness.run.files import replace_file
from harness.tokenizers.identity import TokenizerIdentity


def open_source(folder: Path, source: Source) -> Totals | None:
    """Claim the folder for this source; return the totals if the channel is finished, None if work is left.

    Raises:
        UsageError: The folder holds a channel of another source, or parts of unknown origin.
        DataError: `source.json` is unreadable.
    """
    file = folder / SOURCE_FILE
    if (found := read_source(folder)) is None:
        if read_finished_parts(folder):
            raise UsageError(
                f"{folder} already holds parts that another program made ({PARTS_FILE} without {SOURCE_FILE}). "
                "They stay as they are. Choose another --output or --channel."
            )
        _write(file, source, finished=None)
        return None
    recorded, finished = found.source, found.finished
    differences = [
        f"  {field.name}: there {_shown(getattr(recorded, field.name))}, now {_shown(getattr(source, field.name))}"
        for field in fields(Source)
        if not _is_same(getattr(recorded, field.name), getattr(source, field.name))
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


def _is_same(recorded: object, now: object) -> bool:
    if isinstance(recorded, TokenizerIdentity) and isinstance(now, TokenizerIdentity):
        return recorded.is_same_as(now)
    return recorded == now


def _write(file: Path, source: Source, finished: Totals | None) -> None:
    content = asdict(source) | {
        "tokenizer": source.tokenizer.as_json(),
        "finished": asdict(finished) if finished else None,
    }
    replace_file(file, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        names = ", ".join(f"{name} ({size} bytes)" for name, size in value[:3])
        return names if len(value) <= 3 else f"{names} and {len(value) - 3} more"
    return str(value)
