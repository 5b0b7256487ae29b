"""The folder of a conversion: written beside its place, gone on with after an interruption, renamed when it is proven.

```
OUT.partial/conversion.json   what is being converted; other content means another conversion, which starts anew
            …                 finished files have their final name, unfinished ones end in `.partial`
OUT/                          all of it, once the proof is done
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.checkpoint.durable import STAGING_SUFFIX, fsync_folder, remove_tree, replace_file
from harness.errors import CheckpointError, UsageError

RECORD_NAME = "conversion.json"


def begin(out: Path, record: Mapping[str, object]) -> Path:
    """The partial folder to write into: that of an interrupted conversion with the same record, or an empty one.

    Raises:
        UsageError: there is something at OUT.
        CheckpointError: the disk refused.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists. Name another folder, or remove it: nothing is ever overwritten.")
    partial = out.with_name(out.name + STAGING_SUFFIX)
    text = _text(record)
    try:
        if (partial / RECORD_NAME).is_file() and (partial / RECORD_NAME).read_bytes() == text:
            return partial
        remove_tree(partial, first=RECORD_NAME)
        partial.mkdir(parents=True)
        replace_file(partial / RECORD_NAME, text)
    except OSError as error:
        raise CheckpointError(f"{partial} cannot be written: {error.strerror}.") from error
    return partial


def publish(partial: Path, out: Path, record: Mapping[str, object]) -> None:
    """Renames the partial folder; `record` replaces what was noted at the beginning.

    Raises:
        CheckpointError: the disk refused; the partial folder is still there.
    """
    try:
        replace_file(partial / RECORD_NAME, _text(record))
        fsync_folder(partial)
        partial.rename(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out} could not be published: {error.strerror}.") from error


def _text(record: Mapping[str, object]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
