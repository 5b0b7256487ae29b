"""Steps and samples that a run has not got are refused when a command is given, and rejected when it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_samples import SMALLEST, untrained_run

from harness import cli
from harness.config.load import load_config
from harness.run.commands.mailbox import Mailbox
from harness.run.commands.reach import rollback_problem
from harness.run.event_types import RolledBack
from harness.run.events import append_event
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

MADE = 320


def record(step: int) -> str:
    return to_json_line(
        StepRecord(
            attempt=0,
            step=step,
            time=1.0,
            phase="main",
            consumed_samples=4 * step,
            consumed_tokens=32 * step,
            batch_hash=1,
            values={"train/lm_loss": 2.0},
        )
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = untrained_run(tmp_path / "run")
    longer = SMALLEST.replace("train_steps: 10", "train_steps: 1000000")
    run_dir.config.write_text(longer + "watch: {most_skip_steps: 100}\n")
    run_dir.metrics.write_text("".join(record(step) for step in range(1, MADE + 1)))
    return run_dir


WRONG = [
    (["rollback", "--before-step", "310", "--skip-steps", "400000000:400000100"], "these steps were not made"),
    (["rollback", "--before-step", "310", "--skip-steps", "311:400000100"], "these steps were not made"),
    (["rollback", "--before-step", "310", "--skip-steps", "321:330"], "the last one that was made is 320"),
    (["rollback", "--to-step", "321"], "to_step is 321; the last one that was made is 320"),
    (["rollback", "--to-step", "4", "--skip-samples", "5:4000001"], "the order of the run ends with position 4000000"),
    (["evidence", "--steps", "400000000:400000010"], "these steps were not made"),
    (["evidence", "--steps", "319:321"], "these steps were not made"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_what_was_not_made_is_refused_when_it_is_given(
    run_dir: RunDir, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["signal", str(run_dir.root), *arguments]) == 64
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not list(run_dir.signals.glob("*.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollback", "--before-step", "310", "--skip-steps", "311:320"],
        ["rollback", "--before-step", "310", "--skip-steps", "320:420"],  # what is wrong with the data may go on
        ["rollback", "--before-step", "400000000"],
        ["rollback", "--to-step", "4", "--skip-samples", "5:4000000"],
        ["evidence", "--steps", "300:320"],
    ],
)
def test_what_was_made_is_given(run_dir: RunDir, arguments: list[str]) -> None:
    assert cli.run(["signal", str(run_dir.root), *arguments]) == 0


def test_steps_of_an_earlier_attempt_were_made(run_dir: RunDir) -> None:
    append_event(
        run_dir.events, RolledBack(attempt=1, step=10, command="x", reason="", from_step=900, from_memory=False)
    )
    assert cli.run(["signal", str(run_dir.root), "rollback", "--to-step", "4", "--skip-steps", "880:900"]) == 0


def test_a_start_with_a_rollback_refuses_them_too(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(run_dir.config)
    arguments = ["train", config, "--run-dir", str(run_dir.root), "--rollback-to", "4", "--skip-steps", "5:400000000"]
    assert cli.run(arguments) == 64
    assert "these steps were not made" in capsys.readouterr().err
    assert cli.run([*arguments[:-4], "--rollback-to", "9" * 30]) == 64
    assert not list(run_dir.signals.glob("*.json"))


@pytest.mark.parametrize(
    "fields",
    [
        {"before_step": 310, "skip_steps": [400_000_000, 400_000_100]},
        {"before_step": 310, "skip_steps": [1, 400_000_100]},
        {"to_step": 4, "skip_steps": [1, 10**300]},
        {"to_step": 4, "skip_samples": [0, 10**18]},
        {"to_step": 10**30},
    ],
)
def test_what_was_not_made_is_rejected_when_it_is_read(run_dir: RunDir, fields: dict[str, object]) -> None:
    (run_dir.signals / "x.json").write_text(json.dumps({"kind": "rollback", **fields}))
    config = load_config(run_dir.config)
    clock = iter([0.0, 100.0])
    box = Mailbox(
        run_dir,
        problem_of=lambda request: rollback_problem(run_dir, config, request),
        monotonic=lambda: next(clock),
    )
    assert box.poll() + box.poll() == []
    assert (run_dir.signals_rejected / "x.json.reason").read_text().strip()
    assert not (run_dir.signals / "x.json").exists()


def test_a_reason_is_kept_whole_or_refused(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["signal", str(run_dir.root), "save", "--reason", "x" * 1001]) == 64
    assert "the reason has 1,001 characters; at most 1,000 are kept with a command" in capsys.readouterr().err
    assert cli.run(["signal", str(run_dir.root), "save", "--reason", "x" * 1000]) == 0


def test_a_command_that_no_run_would_read_is_not_given(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [word for number in range(12_000) for word in ("--document", f"c/part-00000:{number}")]
    assert cli.run(["data", "quarantine", str(run_dir.root), *documents]) == 64
    assert "give several commands" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")
def test_only_the_user_who_trains_gives_commands(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    os.chown(run_dir.config, 65534, -1)
    assert cli.run(["signal", str(run_dir.root), "save"]) == 64
    assert f"{run_dir.root} belongs to user 65534, and this is user 0" in capsys.readouterr().err
