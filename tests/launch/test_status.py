"""Where a run is, by its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.alerts.alert import Alert, Kind, RunName
from harness.alerts.desk import AlertDesk
from harness.errors import UsageError
from harness.launch.status import status_of, status_text
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.run_state.slurm_job import Ask, Life, SlurmJob
from harness.text import moment_text

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


def start(run: RunDir, job_id: str | None = "42") -> float:
    run.config.write_text(CONFIG)
    path = run.launch(1) / "launch.json"
    write(path, {"job_id": job_id, "world_size": 2, "submission": "0001"})
    if job_id is None:
        (run.launch(1) / "submission.json").unlink()
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


def no_slurm(job_id: str) -> SlurmJob | None:
    """Slurm that does not answer."""
    del job_id


def job_that(life: Life, word: str = "", reason: str | None = None) -> Ask:
    """Slurm that knows where a job is."""
    return lambda job_id: SlurmJob(job_id=job_id, life=life, word=word, reason=reason)


def state(run: RunDir, now: float | None = None, ask: Ask = no_slurm) -> tuple[str, str | None]:
    found = status_of(run, now, ask)
    return found.state, found.reason


def test_a_job_in_the_queue(run_dir: RunDir) -> None:
    waits = job_that(Life.WAITS, "PENDING", "Priority")
    assert state(run_dir, ask=waits) == ("queued", "job 42 waits in the queue (Priority)")
    assert status_of(run_dir, ask=waits).job_id == "42"


def test_a_run_whose_lock_is_held_is_alive_and_slurm_is_not_asked(run_dir: RunDir) -> None:
    start(run_dir)

    def ask(job_id: str) -> SlurmJob | None:
        raise AssertionError(job_id)

    with RunLock(run_dir, "42"):
        found, reason = state(run_dir, ask=ask)
    assert found == "starting"
    assert reason is not None
    assert "(job 42)" in reason


def test_a_run_with_fresh_heartbeats_trains_on_another_host(run_dir: RunDir) -> None:
    begun = start(run_dir)
    beat = Beat(rank=0, host="n1", pid=1, step=3, activity=Activity.DATA, since=begun, time=begun + 60, spent_s={})
    write(run_dir.heartbeat(0), beat_to_json(beat))
    assert state(run_dir, begun + 70) == ("training", None)
    assert state(run_dir, begun + 600)[0] == "unknown"
    gone = status_of(run_dir, begun + 600, job_that(Life.OVER, "NODE_FAIL"))
    assert (gone.state, gone.needs_person) == ("gone", True)
    assert "state      gone: it was killed" in status_text(gone)
    assert "Slurm says of job 42: NODE_FAIL (a person must look)" in status_text(gone)


@pytest.mark.parametrize(
    ("action", "expected"), [("requeue", ("requeued", "time limit")), ("stop", ("stopped", "time limit"))]
)
def test_a_launch_that_ended_says_what_follows(run_dir: RunDir, action: str, expected: tuple[str, str]) -> None:
    start(run_dir)
    write(run_dir.launch(1) / "ended.json", {"action": action, "reason": "time limit", "exit_code": 75})
    assert state(run_dir) == expected


def test_a_failure_is_shown_with_its_first_cause_and_the_end_of_the_log(run_dir: RunDir) -> None:
    start(run_dir)
    cause = {"rank": 1, "text": "rank 1 was killed by SIGKILL", "return_code": -9, "log": "/x/node_1.log"}
    ended = {"action": "stop", "alert": True, "reason": "gave up", "exit_code": 70}
    write(run_dir.launch(1) / "ended.json", ended | {"cause": cause | {"last_lines": ["step 7", "Killed"]}})
    found = status_of(run_dir, ask=no_slurm)
    assert (found.state, found.needs_person) == ("failed", True)
    lines = status_text(found).splitlines()
    assert "state      failed: gave up; first cause: rank 1 was killed by SIGKILL (a person must look)" in lines
    assert lines[-3:] == ["the end of /x/node_1.log:", "  step 7", "  Killed"]
    assert found.cause is not None
    assert found.cause["last_lines"] == ["step 7", "Killed"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, ("finished", "why")),
        (75, ("stopped", "to be continued; why")),
        (76, ("failed", "a person must look; why")),
        (77, ("stopped", "by a person; why")),
        (70, ("failed", "why")),
    ],
)
def test_a_run_without_slurm_tells_by_its_last_event(run_dir: RunDir, code: int, expected: tuple[str, str]) -> None:
    begun = start(run_dir, job_id=None)
    write(
        run_dir.events, {"kind": "exit", "attempt": 0, "step": 1, "time": begun + 1, "exit_code": code, "reason": "why"}
    )
    assert state(run_dir, begun + 2) == expected
    write(
        run_dir.events,
        {"kind": "exit", "attempt": 0, "step": 1, "time": begun - 9, "exit_code": code, "reason": "an earlier launch"},
    )
    assert state(run_dir, begun + 2)[0] == "starting"
    assert state(run_dir, begun + 200)[0] == "gone"


def test_a_hung_run_says_how_old_its_last_step_is(run_dir: RunDir) -> None:
    begun = start(run_dir, job_id=None)
    run_dir.metrics.write_text("".join(record(step, begun + 0.3 * step) for step in range(1, 11)))
    with RunLock(run_dir):
        for activity, now in ((Activity.DATA, begun + 10), (Activity.DATA, begun + 73)):
            beat = Beat(rank=0, host="n1", pid=1, step=10, activity=activity, since=begun, time=now, spent_s={})
            write(run_dir.heartbeat(0), beat_to_json(beat))
            found = status_of(run_dir, now)
            if now < begun + 60:
                assert "last step  7 s ago" in status_text(found).splitlines()
                assert found.time_left_s is not None
    assert found.late == "no step since 70 s (usual 0.3 s)"
    assert (found.state, found.needs_person, found.time_left_s) == ("training", True, None)
    assert "last step  no step since 70 s (usual 0.3 s)" in status_text(found).splitlines()


def test_the_watcher_and_the_alerts_are_shown(run_dir: RunDir) -> None:
    begun = start(run_dir, job_id=None)
    with RunLock(run_dir):
        text = status_text(status_of(run_dir, begun + 5))
        assert "watcher    none: nobody watches for spikes and hangs" in text.splitlines()
        run_dir.watch.mkdir()
        write(run_dir.watch_heartbeat, {"time": begun, "host": "n7", "pid": 4, "step": 1, "may_order": True})
        desk = AlertDesk(run_dir=run_dir, run=RunName(name="small", folder="r"))
        desk.tell(Alert(key="disk", kind=Kind.DISK, text="nearly full", lasts=True))
        found = status_of(run_dir, begun + 5)
        assert "watcher    process 4 on n7 looked 5 s ago" in status_text(found).splitlines()
        assert "alert      [warning] disk since " in status_text(found)
        assert found.alerts["open"][0]["text"] == "nearly full"
        silent = status_text(status_of(run_dir, begun + 100))
        assert "watcher    none: the last one, on n7, has been silent for 100 s" in silent.splitlines()
        write(run_dir.watch_heartbeat, {"time": begun, "host": "n7", "pid": 4, "step": 1, "has_left": True})
        left = status_text(status_of(run_dir, begun + 5))
        assert "watcher    none: the last one, on n7, left 5 s ago" in left.splitlines()


def test_speed_and_time_left_come_from_what_steps_really_took(run_dir: RunDir) -> None:
    start(run_dir, job_id=None)
    lines = [record(1, 90.0), record(2, 100.0), record(1, 700.0, 1), record(2, 702.0, 1), record(3, 704.0, 1)]
    run_dir.metrics.write_text("".join(lines) + '{"attempt": 1, "st')
    with RunLock(run_dir):
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
    with RunLock(run_dir, "42"):
        lines = status_text(status_of(run_dir, begun + 5)).splitlines()
    assert lines[1].startswith(f"state      starting since {moment_text(begun)}: its processes start: process ")
    assert [lines[0], *lines[2:11]] == [
        f"run        {run_dir.root}",
        "job        42",
        "launch     1",
        "step       2 of 1,000",
        "loss       3.2500",
        "speed      2.00 s a step, 1,024 tokens/s",
        "time left  0:33:16",
        "time       0% of 5 s for steps that count; 5 s starts",
        f"log        {run_dir.launches / 'job_42.log'}",
        "watcher    none: nobody watches for spikes and hangs",
    ]
    assert len(lines) == 16
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
