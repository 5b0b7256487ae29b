"""Claims a channel folder for a source, so that a second call continues it or leaves it alone."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

from data_prep.channels.channel_job import REJECTED_FILE
from data_prep.channels.indexed_writer import read_finished_parts
from harness.channels.channels import PARTS_FILE
from harness.channels.source import SOURCE_FILE, InputRecord, RecordedSource, Source, Totals, are_same, read_source
from harness.errors import UsageError
from harness.run.files import replace_file
from harness.tokenizers.identity import TokenizerIdentity


def open_source(folder: Path, source: Source) -> Totals | None:
    """Claim the folder for this source; return the totals if the channel is finished, None if work is left.

    Raises:
        UsageError: The folder holds a channel of another source, or parts of unknown origin.
        DataError: `source.json` is unreadable.
    """
    if (found := read_source(folder)) is None:
        if read_finished_parts(folder):
            raise UsageError(
                f"{folder} already holds parts that another program made ({PARTS_FILE} without {SOURCE_FILE}). "
                "They stay as they are. Choose another --output or --channel."
            )
        if os.path.lexists(folder / REJECTED_FILE):  # which would be cut off
            raise UsageError(
                f"{folder} already holds {REJECTED_FILE} without {SOURCE_FILE}, so it is of no channel that is made "
                "here. It stays as it is: remove it, or choose another --output or --channel."
            )
        write_source(folder, RecordedSource(source, None))
        return None
    _check_same(folder, found, source)
    if found.unfinished_append:
        raise UsageError(
            f"{folder}: a call of `harness data append` was interrupted ({_shown(found.unfinished_append.inputs)}). "
            "Run that again first."
        )
    return found.finished


def differing(found: RecordedSource, source: Source) -> dict[str, object]:
    """Return what a channel was made of, where that is not what this source is."""
    recorded = found.source
    # The calls so far, up to any of them, are not called anew. Earlier versions recorded no hashes of files.
    if any(are_same(source.inputs, calls) for calls in itertools.accumulate(found.calls)):
        source = replace(source, inputs=recorded.inputs)
    names = [
        field.name
        for field in fields(Source)
        if not _is_same(getattr(recorded, field.name), getattr(source, field.name))
    ]
    return {name: found.inputs if name == "inputs" else getattr(recorded, name) for name in names}


def difference_words(there: Mapping[str, object], source: Source) -> list[str]:
    """Return what `differing` found, in words."""
    return [f"{name}: there {_shown(there[name])}, now {_shown(getattr(source, name))}" for name in there]


def _check_same(folder: Path, found: RecordedSource, source: Source) -> None:
    there = differing(found, source)
    if not there:
        return
    differences = [f"  {words}" for words in difference_words(there, source)]
    add = "To add files to the channel use `harness data append`. " if [*there] == ["inputs"] and found.totals else ""
    raise UsageError(
        f"{folder} already holds {'a' if found.finished else 'an unfinished'} channel made in another way:\n"
        + "\n".join(differences)
        + f"\nNothing was changed. {add}Choose another --output or --channel, or delete the folder to make it anew."
    )


def finish_source(folder: Path, source: Source, totals: Totals) -> None:
    """Record that all input is in the parts."""
    write_source(folder, RecordedSource(source, totals))


def _is_same(recorded: object, now: object) -> bool:
    if isinstance(recorded, TokenizerIdentity) and isinstance(now, TokenizerIdentity):
        return recorded.is_same_as(now)
    return recorded == now


def write_source(folder: Path, recorded: RecordedSource) -> None:
    """Write what a channel is made from."""
    source, totals = recorded.source, recorded.totals
    content = asdict(source) | {
        "tokenizer": source.tokenizer.as_json(),
        "finished": asdict(totals) if totals else None,
    }
    if recorded.appended:
        content["appended"] = [asdict(call) for call in recorded.appended]
    replace_file(folder / SOURCE_FILE, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        names = ", ".join(_shown_input(entry) for entry in value[:3])
        return names if len(value) <= 3 else f"{names} and {len(value) - 3} more"
    return str(value)


def _shown_input(entry: InputRecord) -> str:
    # Of equal names and sizes the content tells the two lists apart.
    content = f", content {entry.xxh3}" if entry.xxh3 else ""
    return f"{entry.name} ({entry.size} bytes{content})"
