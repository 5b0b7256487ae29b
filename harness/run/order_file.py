"""The journal of a run's data order: adopted parts and quarantined documents, written before they count, and rollbacks.

`<run>/order.jsonl` has one change a line, as `harness.run.order_changes` writes it. A run that is killed after a change
and goes on from an earlier checkpoint finds here the position of the change, and so makes the same samples again.
Entries hold for good: a rollback takes none back. The windows that a rollback skips are in its checkpoints. They are
here as well, for a start that must go back to an earlier checkpoint than those: `{"kind": "rollback", "order": …,
"skip_windows": [[start, stop], …]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from harness.errors import CheckpointError, SaveFailedError
from harness.json_text import parse_json
from harness.run.field_types import Range, Text, reason_in_words
from harness.run.files import append_durably
from harness.run.lines import MOST_LINE_BYTES, lines_in
from harness.run.order_changes import Change, History, change_from_json, require_growing

_ROLLBACK = "rollback"


class RolledBack(NamedTuple):
    """A rollback that was carried out."""

    command: str
    """Fingerprint of the command; `order` in the file."""
    skip_windows: tuple[tuple[int, int], ...]
    """Positions [start, stop) of all samples that the run skips from then on."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kind": _ROLLBACK, "order": self.command, "skip_windows": self.skip_windows}


class _RolledBack(BaseModel):
    """A line about a rollback, with strict types: it may be damaged."""

    order: Text
    skip_windows: tuple[Range, ...]


def read_journal(path: Path) -> History:
    """Return the changes in a journal by rising position; none without a journal. A half-written last line is ignored.

    Raises:
        CheckpointError: The journal is damaged.
    """
    history = tuple(sorted(_entries(path)[0], key=lambda change: change.position))
    try:
        require_growing(history)
    except ValueError as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    return history


def rollbacks_in_journal(path: Path) -> list[RolledBack]:
    """Return the rollbacks that were carried out, in the order in which they were written.

    Raises:
        CheckpointError: The journal is damaged.
    """
    return _entries(path)[1]


def append_to_journal(path: Path, changes: Iterable[Change | RolledBack]) -> None:
    """Append changes and rollbacks durably, all of them or none.

    Raises:
        SaveFailedError: The disk does not take them.
    """
    lines = [json.dumps(change.to_json()) for change in changes]
    if not lines:
        return
    try:
        append_durably(path, lines)
    except OSError as error:
        raise SaveFailedError(f"cannot write {path}: {error.strerror or error}") from error


def _entries(path: Path) -> tuple[list[Change], list[RolledBack]]:
    """Return the changes and the rollbacks of a journal, in the order in which they were written.

    An unfinished last line is ignored: it did not count yet.
    """
    changes: list[Change] = []
    rollbacks: list[RolledBack] = []
    number = 0
    try:
        for line in lines_in(path):
            number += 1
            if line and not line.endswith(b"\n"):
                break
            if not line:
                raise ValueError(f"it is longer than {MOST_LINE_BYTES >> 20} MiB")  # noqa: TRY301 (told below)
            value = parse_json(line)
            if isinstance(value, dict) and value.get("kind") == _ROLLBACK:
                found = _RolledBack.model_validate(value)
                rollbacks.append(RolledBack(found.order, found.skip_windows))
            else:
                changes.append(change_from_json(value))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(_damaged(path, f"line {number}: {reason_in_words(error)}")) from error
    return changes, rollbacks


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path} is damaged: {reason}. It says when parts were adopted, and what is skipped; restore it, or move it "
        "away to go on with what the checkpoint knows."
    )
