"""Commands to a run that has finished are refused: they would wait, and end the next start."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from run_samples import SMALLEST, untrained_run

from harness import cli
from harness.errors import UsageError
from harness.run.commands.giving import give, wait_for
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import make_request
from harness.run.event_types import Exit, Resumed
from harness.run.events import append_event
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.lock import RunLock
from harness.run.paths import RunDir


@pytest.fixture
def finished(tmp_path: Path) -> RunDir:
    run_dir = untrained_run(tmp_path / "run")
    left = Exit(attempt=0, step=10, exit_code=0, reason="all steps are done", next_phase=None)
    append_event(run_dir.events, left)
    return run_dir


def test_a_run_that_paused_at_a_step_takes_commands_for_its_next_start(finished: RunDir) -> None:
    finished.config.write_text(SMALLEST.replace("train_steps: 10", "train_steps: 11"))
    assert cli.run(["signal", str(finished.root), "save"]) == 0


@pytest.mark.parametrize("command", ["save", "stop", "save-and-stop"])
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_finished_run_takes_no_command(
    finished: RunDir, command: str, wait: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["signal", str(finished.root), command, *wait]) == 64
    error = capsys.readouterr().err
    assert f"the run in {finished.root} has finished at step 10, and nobody trains there: {command} would only" in error
    assert list(finished.signals.glob("*.json")) == []


def test_a_finished_run_may_be_rolled_back_at_its_next_start(finished: RunDir) -> None:
    assert cli.run(["signal", str(finished.root), "rollback", "--to-step", "4"]) == 0
    assert len(list(finished.signals.glob("rollback-*.json"))) == 1


def test_a_run_that_trains_again_or_stopped_before_its_end_takes_commands(finished: RunDir) -> None:
    with RunLock(finished):
        assert cli.run(["signal", str(finished.root), "save"]) == 0
    append_event(finished.events, Resumed(attempt=0, step=10, path="p", from_snapshot=False))
    assert cli.run(["signal", str(finished.root), "stop"]) == 0
    left = Exit(attempt=0, step=12, exit_code=75, reason="save-and-stop", next_phase=None)
    append_event(finished.events, left)
    assert cli.run(["signal", str(finished.root), "stop"]) == 0


def test_where_nobody_trains_there_is_nothing_to_save_and_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = untrained_run(tmp_path / "run")
    assert cli.run(["signal", str(run_dir.root), "save-and-stop", "--wait"]) == 64
    assert f"nobody trains in {run_dir.root} now, so there is nothing to save and to stop" in capsys.readouterr().err
    assert list(run_dir.signals.glob("*.json")) == []
    with RunLock(run_dir):
        assert cli.run(["signal", str(run_dir.root), "save-and-stop"]) == 0


def test_a_run_whose_lock_is_out_of_sight_takes_commands_by_its_heartbeats(tmp_path: Path) -> None:
    run_dir = untrained_run(tmp_path / "run")
    beat = Beat(
        rank=0, host="n1", pid=1, step=3, activity=Activity.DATA, since=1.0, time=round(time.time(), 3), spent_s={}
    )
    run_dir.heartbeat(0).write_text(json.dumps(beat_to_json(beat)))
    assert cli.run(["signal", str(run_dir.root), "save-and-stop"]) == 0


def test_a_run_that_ends_while_somebody_waits_leaves_no_command_behind(tmp_path: Path) -> None:
    """It would end the next start."""
    run_dir = untrained_run(tmp_path / "run")
    with RunLock(run_dir):
        file = give(run_dir, make_request(CommandKind.SAVE_AND_STOP, {}))
        saving = give(run_dir, make_request(CommandKind.SAVE, {}))
    with pytest.raises(UsageError, match="ended before it took the command, which was withdrawn"):
        wait_for(run_dir, file, timeout_s=5)
    assert not file.exists()
    with pytest.raises(UsageError, match="takes effect when training is started"):
        wait_for(run_dir, saving, timeout_s=5)
    assert saving.exists()
