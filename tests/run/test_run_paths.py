"""Every path of a run directory, and the names that are read back from it."""

from pathlib import Path

import pytest

from harness.run.paths import RunDir, step_name, step_of

RUN = RunDir(Path("/r"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (RUN.config, "config.yaml"),
        (RUN.plan, "plan.txt"),
        (RUN.metrics, "metrics.jsonl"),
        (RUN.events, "events.jsonl"),
        (RUN.tensorboard, "tensorboard"),
        (RUN.lock, "lock"),
        (RUN.signals, "signals"),
        (RUN.signals_done, "signals/done"),
        (RUN.signals_rejected, "signals/rejected"),
        (RUN.checkpoints, "checkpoints"),
        (RUN.checkpoint(12000), "checkpoints/step_0012000"),
        (RUN.partial_checkpoint(12000), "checkpoints/step_0012000.partial"),
        (RUN.evidence_folder, "evidence"),
        (RUN.evidence(12040), "evidence/step_0012040.jsonl"),
        (RUN.heartbeats, "heartbeats"),
        (RUN.heartbeat(0), "heartbeats/rank_00000.json"),
        (RUN.launches, "launches"),
        (RUN.launch(1), "launches/0001"),
    ],
)
def test_paths_are_the_public_ones(path: Path, expected: str) -> None:
    assert path == Path("/r") / expected


def test_default_directory_is_under_runs() -> None:
    assert RunDir.of_run("tiny").root == Path("runs/tiny")


@pytest.mark.parametrize("step", [0, 1, 12000, 9_999_999, 12_345_678])
def test_step_names_are_read_back(step: int) -> None:
    assert step_of(step_name(step)) == step


@pytest.mark.parametrize(
    "name", ["step_12", "step_0000001.partial", "step_0000001.jsonl", "xstep_0000001", "latest", ""]
)
def test_other_names_are_no_steps(name: str) -> None:
    assert step_of(name) is None


def test_launches_are_numbered_from_one_upwards(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.next_launch_number() == 1
    run.make_folders()
    assert run.next_launch_number() == 1
    run.launch(1).mkdir()
    run.launch(7).mkdir()
    (run.launches / "notes").mkdir()
    assert run.next_launch_number() == 8


def test_folders_are_made_once_and_kept(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "deep" / "run")
    run.make_folders()
    kept = run.signals_done / "x.json"
    kept.write_text("{}")
    run.make_folders()
    assert kept.exists()
    assert run.signals_rejected.is_dir() and run.checkpoints.is_dir() and run.heartbeats.is_dir()
