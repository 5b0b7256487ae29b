"""The journal of a run's data order: adopted parts and quarantined documents, written before they count, and rollbacks.

`<run>/order.jsonl` has one change a line, as `harness.run.order_changes` writes it. A run that is killed after a change
and goes on from an earlier checkpoint finds here the position of the change, and so makes the same samples again.
Entries hold for good: a rollback takes none back. The windows that a rollback skips are in its checkpoints. They are
here as well, for a start that must go back to an earlier checkpoint than those: `{"kind": "rollback", "order": …,
"skip_windows": [[start, stop], …]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import CheckpointError, SaveFailedError
from harness.json_text import parse_json
from harness.run.files import append_durably
from harness.run.order_changes import Change, History, history_from_json

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


def read_journal(path: Path) -> History:
    """Return the changes in a journal by rising position; none without a journal. A half-written last line is ignored.

    Raises:
        CheckpointError: The journal is damaged.
    """
    lines = _lines(path)
    with _raising_damage(path):
        values = [value for line in lines if (value := parse_json(line))["kind"] != _ROLLBACK]
        return history_from_json(sorted(values, key=lambda value: value["position"]))


def rollbacks_in_journal(path: Path) -> list[RolledBack]:
    """Return the rollbacks that were carried out, in the order in which they were written.

    Raises:
        CheckpointError: The journal is damaged.
    """
    lines = _lines(path)
    with _raising_damage(path):
        return [_rolled_back(value) for line in lines if (value := parse_json(line))["kind"] == _ROLLBACK]


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


def _rolled_back(value: dict[str, Any]) -> RolledBack:
    windows = tuple((start, stop) for start, stop in value["skip_windows"])
    if type(value["order"]) is not str or not all(type(a) is type(b) is int and 0 <= a <= b for a, b in windows):
        raise ValueError(f"this is not a rollback: {value}")
    return RolledBack(value["order"], windows)


def _lines(path: Path) -> list[bytes]:
    """Return the lines of the journal, without an unfinished last one."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    return lines


@contextmanager
def _raising_damage(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` in place of an error that unexpected content causes."""
    try:
        yield
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. It says when parts were adopted, and what is skipped; restore it, or move it "
            "away to go on with what the checkpoint knows."
        ) from error
