"""The journal of a run's order: adopted parts and quarantined documents, written down before they count, and rollbacks.

`<run>/order.jsonl` has one change a line, as `harness.run.order_changes` writes it. A run that is killed after a change
and goes on from an earlier checkpoint finds here at which position it came, and so makes the same samples again.
Entries hold for good: a rollback takes none back. What rollbacks skip is in their checkpoints; for a start that must go
back further than to those it is here as well: `{"kind": "rollback", "order": …, "skip_windows": [[start, stop], …]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import CheckpointError, SaveFailedError
from harness.run.files import append_durably
from harness.run.order_changes import Change, History, history_from_json

_ROLLBACK = "rollback"


class RolledBack(NamedTuple):
    """A rollback that was carried out."""

    command: str
    """Fingerprint of the command for it; `order` in the file."""
    skip_windows: tuple[tuple[int, int], ...]
    """Positions [start, stop) of all samples that the run skips from then on."""


def read_journal(path: Path) -> History:
    """The changes in a journal by rising position; none if there is no journal. A half-written last line is left out.

    Raises:
        CheckpointError: The journal is damaged.
    """
    lines = _lines(path)
    with _told_as_damage(path):
        values = [value for line in lines if (value := json.loads(line))["kind"] != _ROLLBACK]
        return history_from_json(sorted(values, key=lambda value: value["position"]))


def rollbacks_in_journal(path: Path) -> list[RolledBack]:
    """The rollbacks that were carried out, in the order in which they were written down.

    Raises:
        CheckpointError: The journal is damaged.
    """
    lines = _lines(path)
    with _told_as_damage(path):
        return [_rolled_back(value) for line in lines if (value := json.loads(line))["kind"] == _ROLLBACK]


def append_to_journal(path: Path, changes: Iterable[Change | RolledBack]) -> None:
    """Write changes and rollbacks down durably, whole or not at all.

    Raises:
        SaveFailedError: The disk does not take them.
    """
    lines = [json.dumps(_to_json(change)) for change in changes]
    if not lines:
        return
    try:
        append_durably(path, lines)
    except OSError as error:
        raise SaveFailedError(f"cannot write {path}: {error.strerror or error}") from error


def _to_json(change: Change | RolledBack) -> dict[str, Any]:
    if isinstance(change, RolledBack):
        return {"kind": _ROLLBACK, "order": change.command, "skip_windows": change.skip_windows}
    return change.to_json()


def _rolled_back(value: dict[str, Any]) -> RolledBack:
    windows = tuple((start, stop) for start, stop in value["skip_windows"])
    if type(value["order"]) is not str or not all(type(a) is type(b) is int and 0 <= a <= b for a, b in windows):
        raise ValueError(f"this is no rollback: {value}")
    return RolledBack(value["order"], windows)


def _lines(path: Path) -> list[bytes]:
    """What is written, without a last line that was not finished."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    return lines


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    """Raises `CheckpointError` in the place of what strange content causes."""
    try:
        yield
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. It says when parts were adopted, and what is skipped; restore it, or move it "
            "away to go on with what the checkpoint knows."
        ) from error
