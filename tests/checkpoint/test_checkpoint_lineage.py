from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_samples import published_manifest

from harness.errors import CheckpointError
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint, Entry
from harness.run.checkpoints.lineage import Target, left_behind, line_of, rollback_target
from harness.run.checkpoints.manifest import Parent, RollbackRecord


def entry(step: int, parent: int | None, *, attempt: int = 0, parent_attempt: int = 0, health: str = "clean") -> Entry:
    manifest = published_manifest(
        step,
        attempt=attempt,
        health=health,
        parent=None if parent is None else Parent(step=parent, attempt=parent_attempt),
    )
    return Checkpoint(path=Path(f"step_{step:07d}.{attempt}"), step=step, copy=1, manifest=manifest)


LINE = [entry(10, None), entry(20, 10), entry(30, 20, health="suspect"), entry(40, 30, health="suspect")]
OTHER = [entry(30, 20, attempt=1), BrokenCheckpoint(path=Path("step_0000050"), step=50, copy=1, problem="torn")]
SAVED = Parent(step=40, attempt=0)


def steps(entries: list[Checkpoint]) -> list[int]:
    return [found.step for found in entries]


def test_the_line_leaves_out_other_attempts_and_broken_folders() -> None:
    assert steps(line_of([*LINE, *OTHER], SAVED)) == [40, 30, 20, 10]
    assert steps(line_of([*LINE, *OTHER], Parent(step=30, attempt=1))) == [30, 20, 10]
    assert line_of(LINE, None) == []
    assert steps(line_of(LINE[1:], SAVED)) == [40, 30, 20]  # the first one was pruned


@pytest.mark.parametrize(
    ("target", "step"),
    [
        (Target(to_step=30), 30),  # named by a person: its health does not matter
        (Target(before_step=41), 20),  # the newest clean one
        (Target(before_step=20), 10),
    ],
)
def test_target(target: Target, step: int) -> None:
    assert rollback_target([*LINE, *OTHER], SAVED, target).step == step


@pytest.mark.parametrize("target", [Target(to_step=50), Target(to_step=25), Target(before_step=10)])
def test_no_target(target: Target) -> None:
    with pytest.raises(CheckpointError, match=r"this line has steps 10 \(clean\), 20 \(clean\), 30 \(suspect\)"):
        rollback_target([*LINE, *OTHER], SAVED, target)


def test_what_is_left_behind() -> None:
    rollback = RollbackRecord(order="x", from_step=44, to_step=20, attempt=2, reason="")
    behind_it = [entry(20, 20, attempt=2), entry(30, 20, attempt=2, parent_attempt=2)]
    marked = [entry(50, 40, health="abandoned")]
    assert steps(left_behind([*LINE, *OTHER, *behind_it, *marked], rollback)) == [30, 40, 30]
    assert left_behind(behind_it, rollback) == []


def test_a_target_is_exactly_one_thing() -> None:
    with pytest.raises(AssertionError):
        Target()
    with pytest.raises(AssertionError):
        Target(to_step=1, before_step=2)
