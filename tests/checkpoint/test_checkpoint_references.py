from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_samples import published_manifest, save, store_in

from harness import cli
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint, Entry
from harness.run.checkpoints.retention import MAX_EVIDENCE, before_steps, evidence_steps
from harness.run.paths import RunDir


def entry(step: int, **changes: object) -> Checkpoint:
    name = f"step_{step}.{changes.get('attempt', 0)}"
    return Checkpoint(path=Path(name), step=step, copy=1, manifest=published_manifest(step, **changes))


ENTRIES: list[Entry] = [
    entry(10),
    entry(20),
    entry(30, health="abandoned"),
    entry(20, attempt=1),
    entry(30, attempt=1, health="suspect"),
    BrokenCheckpoint(path=Path("broken"), step=25, copy=1, problem="no manifest"),
]


@pytest.mark.parametrize(
    ("steps", "names"),
    [((31,), {"step_30.1"}), ((30,), {"step_20.1"}), ((20, 35), {"step_10.0", "step_30.1"}), ((10,), set())],
)
def test_the_checkpoint_before_each_step(steps: tuple[int, ...], names: set[str]) -> None:
    assert {path.name for path in before_steps(ENTRIES, steps)} == names


def test_steps_of_evidence_are_those_of_the_newest_files(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert evidence_steps(run_dir) == []
    run_dir.evidence_folder.mkdir()
    for step in range(1, MAX_EVIDENCE + 3):
        run_dir.evidence(step).touch()
    (run_dir.evidence_folder / "step_0000099.partial").touch()
    (run_dir.evidence_folder / "notes.jsonl").touch()
    assert evidence_steps(run_dir) == list(range(MAX_EVIDENCE + 2, 2, -1))


def test_prune_keeps_what_evidence_refers_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_in(tmp_path)
    for step in (10, 20, 30, 40):
        save(store, step)
    store.run_dir.evidence_folder.mkdir()
    store.run_dir.evidence(21).touch()
    assert cli.run(["checkpoint", "prune", str(store.run_dir.root), "--keep-last", "1"]) == 0
    assert [found.step for found in store.list()] == [20, 40]
