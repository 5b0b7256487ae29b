"""Records starts from a checkpoint that failed before the next save. After two of them, `--resume auto` stops.

Repeating a start that failed twice would burn the allocation and hide the cause. A start counts if an error of its own
ended one of its ranks. If it was killed, was stopped by a command, lost a node, or found its data damaged, that says
nothing about its checkpoint.

`resume_failures.jsonl` has one JSON object a line: `checkpoint` (name of the folder), `start` (equal on all ranks of a
start), `rank`, `reason`. A save removes the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel

from harness.errors import CheckpointError, DataError, RunTakenOverError
from harness.json_text import parse_json
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.run.field_types import Text
from harness.run.files import append_lines
from harness.run.lines import lines_in
from harness.run.paths import RunDir

MAX_FAILURES = 2
_MAX_REASON = 500
_MOST_REASONS = 100


@contextmanager
def recording(
    run_dir: RunDir,
    checkpoint: Path | None,
    *,
    start: str,
    rank: int,
    is_of_another_rank: Callable[[Exception], bool] = lambda error: False,
) -> Iterator[None]:
    """Record an error of the `with` block, unless something was saved in between, and raise it again."""
    known = _names(run_dir)
    try:
        yield
    except (RunTakenOverError, DataError):
        raise  # not errors of the checkpoint; and after a takeover, the directory belongs to another process
    except Exception as error:
        if checkpoint is not None and not is_of_another_rank(error) and _has_saved_nothing(run_dir, known):
            with suppress(OSError):  # the error itself is what matters
                failure = {"checkpoint": checkpoint.name, "start": start, "rank": rank, "reason": _summary(error)}
                append_lines(run_dir.resume_failures, [json.dumps(failure)])  # several ranks may fail at once
        raise


def require_not_failed_twice(run_dir: RunDir, checkpoint: Path) -> None:
    """Refuse to try a checkpoint a third time.

    Raises:
        CheckpointError: Two starts went on from it and failed.
    """
    reasons = failures_of(run_dir, checkpoint.name)
    if len(reasons) < MAX_FAILURES:
        return
    lines = "\n".join(f"  {reason}" for reason in reasons)
    raise CheckpointError(
        f"{len(reasons)} starts went on from {checkpoint} and failed before they saved anything:\n{lines}\n"
        "Nothing was started. Find the cause first. Then give --resume must to try this checkpoint again, or move its "
        "folder away to go on from the one before it."
    )


class _Failure(BaseModel):
    """A line of the record."""

    checkpoint: Text
    start: Text
    reason: Text


def failures_of(run_dir: RunDir, name: str) -> list[str]:
    """Return why starts from a checkpoint failed: the first reason of each start, oldest first.

    Lines that a full disk cut off, or that are damaged, are passed over.
    """
    reasons: dict[str, str] = {}
    with suppress(OSError):
        for line in lines_in(run_dir.resume_failures):
            with suppress(ValueError):
                failure = _Failure.model_validate(parse_json(line))
                if failure.checkpoint == name and len(reasons) < _MOST_REASONS:
                    reasons.setdefault(failure.start, failure.reason[:_MAX_REASON])
    return list(reasons.values())


def forget(run_dir: RunDir) -> None:
    """Remove the record after a save: the start got further than its checkpoint."""
    with suppress(OSError):
        run_dir.resume_failures.unlink(missing_ok=True)


def _has_saved_nothing(run_dir: RunDir, known: set[str] | None) -> bool:
    """Return whether there is no checkpoint besides the known ones.

    If the disk does not answer the result is False, so that the start is not blamed.
    """
    found = _names(run_dir)
    return known is not None and found is not None and found <= known


def _names(run_dir: RunDir) -> set[str] | None:
    try:
        return {entry.path.name for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint)}
    except OSError:
        return None


def _summary(error: Exception) -> str:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first_line}"[:_MAX_REASON]
