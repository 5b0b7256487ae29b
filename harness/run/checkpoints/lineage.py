"""Which checkpoint came from which: the line that led to a state, where to roll back on it, what that leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import CheckpointError
from harness.run.checkpoints.entries import Checkpoint, Entry
from harness.run.checkpoints.manifest import Parent, RollbackRecord


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a rollback goes: exactly one of the two is given."""

    to_step: int | None = None
    """The checkpoint of this step."""
    before_step: int | None = None
    """The newest clean checkpoint of an earlier step."""

    def __post_init__(self) -> None:
        """Refuses a target that says nothing, or two things."""
        assert (self.to_step is None) != (self.before_step is None), "a rollback has exactly one target"

    def matches(self, entry: Checkpoint) -> bool:
        """Whether a checkpoint is what is asked for. A step named by a person counts whatever its health."""
        if self.to_step is not None:
            return entry.step == self.to_step
        assert self.before_step is not None, "a rollback has exactly one target"
        return entry.step < self.before_step and entry.manifest.health == "clean"

    def __str__(self) -> str:
        """As it is told to people."""
        return f"step {self.to_step}" if self.to_step is not None else f"before step {self.before_step}"


def line_of(entries: Iterable[Entry], saved: Parent | None) -> list[Checkpoint]:
    """The checkpoints that led to the one called `saved`, that one first; ends where one is gone."""
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
    """The checkpoint of this line to roll back to.

    Raises:
        CheckpointError: There is none; lists what the line has.
    """
    line = line_of(entries, saved)
    for entry in line:
        is_there = (
            entry.step == target.to_step if target.to_step is not None else entry.step < (target.before_step or 0)
        )
        if is_there and (target.to_step is not None or entry.manifest.health == "clean"):
            return entry
    there = ", ".join(f"{entry.step} ({entry.manifest.health})" for entry in reversed(line)) or "none"
    raise CheckpointError(
        f"there is no checkpoint to roll back to: asked for {target}, this line has steps {there}. "
        "Name one of these, or start anew with --resume never."
    )


def left_behind(entries: Iterable[Entry], rollback: RollbackRecord) -> list[Checkpoint]:
    """The checkpoints that a rollback abandons and that are not marked so: all of earlier attempts, past its target."""
    return [
        entry
        for entry in entries
        if isinstance(entry, Checkpoint)
        and entry.manifest.attempt < rollback.attempt
        and entry.step > rollback.to_step
        and entry.manifest.health != "abandoned"
    ]
