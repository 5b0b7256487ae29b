"""Commands to a run that has finished are refused: they would wait, and end the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.run.event_types import Exit, Resumed
from harness.run.events import append_event
from harness.run.lock import RunLock
from harness.run.paths import RunDir

CONFIG = """\
run: {name: r}
model: {num_layers: 1, hidden_size: 8, num_attention_heads: 1, ffn_hidden_size: 8, vocab_size: 100}
data: {channels: {c: {path: c}}}
phases: [{name: main, train_steps: 10, seq_length: 8, global_batch_size: 4, blend: {c: 1}}]
optimizer: {learning_rate: 1e-3}
"""


@pytest.fixture
def finished(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.make_folders()
    run_dir.config.write_text(CONFIG)
    left = Exit(attempt=0, step=10, exit_code=0, reason="all steps are done", next_phase=None)
    append_event(run_dir.events, left)
    return run_dir


def test_a_run_that_paused_at_a_step_takes_commands_for_its_next_start(finished: RunDir) -> None:
    finished.config.write_text(CONFIG.replace("train_steps: 10", "train_steps: 11"))
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
