"""The ancestry of checkpoints: the line that led to a state, the target of a rollback, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import CheckpointError
from harness.run.checkpoints.entries import Checkpoint, Entry
from harness.run.checkpoints.manifest import Parent, RollbackRecord


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target of a rollback. Exactly one of the two is given."""

    to_step: int | None = None
    """The checkpoint of this step."""
    before_step: int | None = None
    """The newest clean checkpoint of an earlier step."""

    def __post_init__(self) -> None:
        """Refuse a target with neither or both."""
        assert (self.to_step is None) != (self.before_step is None), "a rollback has exactly one target"

    def matches(self, entry: Checkpoint) -> bool:
        """Return whether a checkpoint fits the target. A step that a person names counts whatever its health."""
        if self.to_step is not None:
            return entry.step == self.to_step
        assert self.before_step is not None, "a rollback has exactly one target"
        return entry.step < self.before_step and entry.manifest.health == "clean"

    def __str__(self) -> str:
        """Return the target in words."""
        return f"step {self.to_step}" if self.to_step is not None else f"before step {self.before_step}"


def line_of(entries: Iterable[Entry], saved: Parent | None) -> list[Checkpoint]:
    """Return the checkpoint `saved` and those that led to it, newest first. Ends where one is missing."""
    known = {
        Parent(step=entry.step, attempt=entry.manifest.attempt): entry
        for entry in entries
        if isinstance(entry, Checkpoint)
    }
    line: list[Checkpoint] = []
    while saved is not None and saved in known and known[saved] not in line:
        line.append(known[saved])
        saved = known[saved].manifest.parent
    return line


def rollback_target(entries: Sequence[Entry], saved: Parent | None, target: Target) -> Checkpoint:
    """Return the checkpoint of this line to roll back to.

    Raises:
        CheckpointError: There is none; lists what the line has.
    """
    line = line_of(entries, saved)
    if found := next(filter(target.matches, line), None):
        return found
    there = ", ".join(f"{entry.step} ({entry.manifest.health})" for entry in reversed(line)) or "none"
    raise CheckpointError(
        f"there is no checkpoint to roll back to: asked for {target}, this line has steps {there}. "
        "Name one of these, or start anew with --resume never."
    )


def left_behind(entries: Iterable[Entry], rollback: RollbackRecord) -> list[Checkpoint]:
    """Return the checkpoints that a rollback leaves behind: earlier attempts, past its target, not yet abandoned.

    Those that are linked from another run are left out: there they are on the line.
    """
    return [
        entry
        for entry in entries
        if isinstance(entry, Checkpoint)
        and entry.manifest.attempt < rollback.attempt
        and entry.step > rollback.to_step
        and entry.manifest.health != "abandoned"
        and entry.other_run is None
    ]
