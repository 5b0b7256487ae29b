"""`harness checkpoint …` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_samples import save, store_in

from harness import cli

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import RunLock
with RunLock(RunDir(Path(sys.argv[1]))):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    store = store_in(tmp_path)
    for step in (10, 20, 30, 40):
        save(store, step)
    return store.run_dir.root


def harness(*arguments: object) -> int:
    return cli.run(["checkpoint", *map(str, arguments)])


def steps_left(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_list(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "checkpoints/step_0000020/manifest.json").unlink()
    assert harness("list", run_dir) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["checkpoint", "attempt", "health", "from", "pinned", "size", "age", "loss"]
    assert lines[0].startswith("step_0000010  0        clean")
    assert "step 5" in lines[0]
    assert lines[0].endswith("2.3750")
    assert "broken: " in lines[1]


def test_list_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list", run_dir, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[0]["parent"] == {"step": 5, "attempt": 0}
    assert rows[0]["bytes"] > 0


def test_list_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("list", tmp_path) == 64
    assert "is not a run with checkpoints" in capsys.readouterr().err


def test_verify_finds_a_flipped_byte_only_with_deep(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = run_dir / "checkpoints/step_0000030/__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert harness("verify", run_dir) == 0
    assert harness("verify", run_dir, "--deep") == 65
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "'__0_0.distcp' was altered" in line] == [lines[6]]


def test_verify_one_folder_as_json(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_dir / "checkpoints/step_0000030"
    (folder / "common.pt").unlink()
    assert harness("verify", folder, "--json") == 65
    assert json.loads(capsys.readouterr().out) == {str(folder): ["'common.pt' is missing"]}


def test_verify_what_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("verify", tmp_path / "nowhere") == 64
    assert "does not exist. Name checkpoint folders or run directories." in capsys.readouterr().err


def test_prune_keeps_the_pinned_and_the_last(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("pin", run_dir / "checkpoints/step_0000010") == 0
    assert harness("prune", run_dir, "--keep-last", 1, "--dry-run") == 0
    assert len(steps_left(run_dir)) == 4
    assert "would remove" in capsys.readouterr().out
    assert harness("prune", run_dir, "--keep-last", 1) == 0
    assert steps_left(run_dir) == ["step_0000010", "step_0000040"]
    assert "2 checkpoints, " in capsys.readouterr().out
    assert harness("unpin", run_dir / "checkpoints/step_0000010") == 0
    assert harness("prune", run_dir, "--keep-last", 1) == 0
    assert steps_left(run_dir) == ["step_0000040"]


def test_prune_removes_nothing_while_the_newest_is_damaged(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "checkpoints/step_0000040/common.pt").unlink()
    assert harness("prune", run_dir, "--keep-last", 1) == 65
    assert "nothing was removed, because" in capsys.readouterr().err
    assert len(steps_left(run_dir)) == 4


def test_prune_beside_a_trainer_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "locked\n"
    assert harness("prune", run_dir, "--keep-last", 1) == 64
    assert len(steps_left(run_dir)) == 4
    trainer.communicate()
    assert harness("prune", run_dir, "--keep-last", 1) == 0


def test_pin_of_no_checkpoint(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert harness("pin", run_dir / "checkpoints/step_0000099") == 64
    assert "is not a checkpoint of a run" in capsys.readouterr().err
