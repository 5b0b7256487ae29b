"""Where a run is, by its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.errors import UsageError
from harness.launch.status import status_of, status_text
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 1000, seq_length: 32, global_batch_size: 64, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run whose job waits in the queue."""
    run = RunDir(tmp_path / "run")
    run.make_folders()
    run.launch(1).mkdir()
    write(run.launch(1) / "submission.json", {"job_id": "42"})
    return run


def write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields) + "\n")


def start(run: RunDir) -> float:
    run.config.write_text(CONFIG)
    path = run.launch(1) / "launch.json"
    write(path, {"job_id": "42", "world_size": 2})
    return path.stat().st_mtime


def record(step: int, time: float, attempt: int = 0) -> str:
    return to_json_line(
        StepRecord(
            attempt=attempt,
            step=step,
            time=time,
            phase="main",
            consumed_samples=64 * step,
            consumed_tokens=2048 * step,
            batch_hash=step,
            values={"train/lm_loss": 3.25},
        )
    )


def state(run: RunDir, now: float | None = None) -> tuple[str, str | None]:
    found = status_of(run, now)
    return found.state, found.reason


def test_a_job_in_the_queue(run_dir: RunDir) -> None:
    assert state(run_dir) == ("queued", None)
    assert status_of(run_dir).job_id == "42"


def test_a_run_whose_lock_is_held_trains(run_dir: RunDir) -> None:
    start(run_dir)
    with RunLock(run_dir, "42"):
        found, reason = state(run_dir)
    assert found == "training"
    assert reason is not None
    assert "(job 42)" in reason


def test_a_run_with_fresh_heartbeats_trains_on_another_host(run_dir: RunDir) -> None:
    begun = start(run_dir)
    beat = Beat(rank=0, host="n1", pid=1, step=3, activity=Activity.DATA, since=begun, time=begun + 60, spent_s={})
    write(run_dir.heartbeat(0), beat_to_json(beat))
    assert state(run_dir, begun + 70) == ("training", None)
    assert state(run_dir, begun + 600) == ("gone", "it was killed, or its node is: it left no word")


@pytest.mark.parametrize(
    ("action", "expected"), [("requeue", ("requeued", "time limit")), ("stop", ("stopped", "time limit"))]
)
def test_a_launch_that_ended_says_what_follows(run_dir: RunDir, action: str, expected: tuple[str, str]) -> None:
    start(run_dir)
    write(run_dir.launch(1) / "ended.json", {"action": action, "reason": "time limit", "exit_code": 75})
    assert state(run_dir) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, "finished"),
        (75, "stopped, to be continued"),
        (76, "stopped, a person must look"),
        (77, "stopped by a person"),
        (70, "failed"),
    ],
)
def test_a_run_without_slurm_tells_by_its_last_event(run_dir: RunDir, code: int, expected: str) -> None:
    begun = start(run_dir)
    write(
        run_dir.events, {"kind": "exit", "attempt": 0, "step": 1, "time": begun + 1, "exit_code": code, "reason": "why"}
    )
    assert state(run_dir, begun + 2) == (expected, "why")
    write(
        run_dir.events,
        {"kind": "exit", "attempt": 0, "step": 1, "time": begun - 9, "exit_code": code, "reason": "an earlier launch"},
    )
    assert state(run_dir, begun + 2)[0] == "gone"


def test_speed_and_time_left_come_from_what_steps_really_took(run_dir: RunDir) -> None:
    start(run_dir)
    lines = [record(1, 90.0), record(2, 100.0), record(1, 700.0, 1), record(2, 702.0, 1), record(3, 704.0, 1)]
    run_dir.metrics.write_text("".join(lines) + '{"attempt": 1, "st')
    found = status_of(run_dir)
    assert (found.step, found.train_steps, found.loss) == (3, 1000, 3.25)
    assert (found.step_time_s, found.tokens_per_second, found.time_left_s) == (2.0, 1024.0, 1994.0)


def test_the_text_is_one_screen(run_dir: RunDir) -> None:
    begun = start(run_dir)
    run_dir.metrics.write_text(record(1, 100.0) + record(2, 102.0))
    (run_dir.launches / "job_42.log").touch()
    events = [
        {"time": begun + n, "kind": "saved", "attempt": 0, "step": n, "path": "c", "seconds": 1.5} for n in range(9)
    ]
    run_dir.events.write_text("".join(json.dumps(event) + "\n" for event in events) + "{\n")
    lines = status_text(status_of(run_dir, begun + 5)).splitlines()
    assert lines[:9] == [
        f"run        {run_dir.root}",
        "state      gone: it was killed, or its node is: it left no word",
        "job        42",
        "launch     1",
        "step       2 of 1,000",
        "loss       3.2500",
        "speed      2.00 s a step, 1,024 tokens/s",
        "time left  0:33:16",
        f"log        {run_dir.launches / 'job_42.log'}",
    ]
    assert len(lines) == 14
    assert lines[-1].endswith("saved: step 8, path c, seconds 1.5")


def test_scripts_get_json(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", str(run_dir.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["job_id"], found["step"], found["events"]) == ("queued", "42", None, [])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory: nothing was launched there; give the directory that"):
        status_of(RunDir(tmp_path))


def test_ranks_with_a_slow_device_are_named_with_their_hosts(run_dir: RunDir) -> None:
    begun = start(run_dir)
    for rank, compute_ms in enumerate((0.2, 0.4, 0.2)):
        one = Beat(
            rank=rank,
            host=f"n{rank}",
            pid=1,
            step=7,
            activity=Activity.DATA,
            since=begun,
            time=begun + 1,
            spent_s={},
            compute_ms=compute_ms,
        )
        run_dir.heartbeat(rank).write_text(json.dumps(beat_to_json(one)))
    found = status_of(run_dir, begun + 2)
    assert found.slow == ("rank 1 on n1",)
    assert "slow       rank 1 on n1" in status_text(found).splitlines()
