"""The journal of a run's order: adopted parts and quarantined documents, written down before they count.

`<run>/order.jsonl` has one change a line, as `harness.data.history` writes it. A run that is killed after a change and
goes on from an earlier checkpoint finds here at which position it came, and so makes the same samples again. Entries
hold for good: a rollback takes none back.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from harness.data.history import Change, History, history_from_json
from harness.errors import CheckpointError, SaveFailedError


def read_journal(path: Path) -> History:
    """The changes in a journal by rising position; none if there is no journal. A half-written last line is left out.

    Raises:
        CheckpointError: The journal is damaged.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    try:
        values = [json.loads(line) for line in lines]
        return history_from_json(sorted(values, key=lambda value: value["position"]))
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. It says when parts were adopted; restore it, or move it away to go on with "
            "what the checkpoint knows."
        ) from error


def append_to_journal(path: Path, changes: Iterable[Change]) -> None:
    """Write changes down durably, whole or not at all.

    Raises:
        SaveFailedError: The disk does not take them.
    """
    content = "".join(json.dumps(change.to_json()) + "\n" for change in changes).encode()
    if not content:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            end = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, end)  # what a crash left half written
            if os.pwrite(descriptor, content, end) < len(content):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SaveFailedError(f"cannot write {path}: {error.strerror or error}") from error


def _end_of_last_line(descriptor: int) -> int:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).rfind(b"\n") + 1
