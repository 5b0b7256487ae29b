"""Opening the folder of a start, and writing down how it ended."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from checkpoint_samples import write_checkpoint

from harness.errors import HarnessError, RunInUseError, UsageError
from harness.launch import job
from harness.launch.job import agreed_code, bad_nodes, begin, end, main
from harness.run.launch_requests import request_kill
from harness.run.launches import LaunchEnd, NodeEnd, history, launches, newest_checkpoint, node_ends, write_node_end
from harness.run.lock import owner_of
from harness.run.paths import RunDir

OTHER = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
launch: {max_failures_without_progress: 2, max_launches_without_progress: 3}
"""


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that was submitted as job 42."""
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    run = RunDir(tmp_path / "run")
    run.make_folders()
    submit(run, 1)
    return run


def submit(run: RunDir, number: int) -> Path:
    folder = run.launch(number)
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "submission.json").write_text(json.dumps({"nodes": 2, "workers_per_node": 4, "job_id": "42"}))
    return folder


def save(run: RunDir, step: int, attempt: int = 0, name: str | None = None) -> None:
    folder = run.checkpoints / (name or f"step_{step:07d}")
    write_checkpoint(folder, step, attempt=attempt)


def test_the_first_start_takes_the_folder_of_the_submission_and_later_ones_the_next(run_dir: RunDir) -> None:
    first = begin(run_dir, run_dir.launch(1))
    assert first == run_dir.launch(1)
    facts = json.loads((first / "launch.json").read_text())
    assert (facts["job_id"], facts["submission"]) == ("42", "0001")
    assert (facts["world_size"], facts["workers_per_node"]) == (8, 4)
    assert facts["newest_checkpoint"] == [-1, 0]
    assert run_dir.config.exists()
    assert owner_of(run_dir) is None
    save(run_dir, 5)
    second = begin(run_dir, run_dir.launch(1))
    assert second == run_dir.launch(2)
    assert json.loads((second / "launch.json").read_text())["newest_checkpoint"] == [0, 5]


def test_orders_of_slurm_to_earlier_starts_are_cleared_away_but_not_those_of_people(run_dir: RunDir) -> None:
    for name in ("slurm-41.json", "stop"):
        (run_dir.signals / name).touch()
    begin(run_dir, run_dir.launch(1))
    assert sorted(path.name for path in run_dir.signals.iterdir() if path.is_file()) == ["stop"]


def test_a_start_without_a_submission_is_refused(run_dir: RunDir) -> None:
    with pytest.raises(UsageError, match=r"there is no submission.json in .*0009; submit the run with `harness launch"):
        begin(run_dir, run_dir.launch(9))


def test_dying_workers_of_an_earlier_start_are_waited_for(run_dir: RunDir) -> None:
    held = run_dir.lock.open("a+")
    fcntl.flock(held, fcntl.LOCK_EX)
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        held.close()

    assert begin(run_dir, run_dir.launch(1), sleep=nap) == run_dir.launch(1)
    assert naps == [2.0]


def test_a_run_that_trains_elsewhere_is_in_use(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "LOCK_PATIENCE_S", 0.0)
    with run_dir.lock.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunInUseError, match="is in use"):
            begin(run_dir, run_dir.launch(1))


@pytest.mark.parametrize(("restarts", "owner", "code"), [(1, "42", 75), (2, "42", 64), (1, "41", 64)])
def test_what_is_left_of_the_start_before_lets_the_job_come_back_a_few_times(
    restarts: int, owner: str, code: int, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "LOCK_PATIENCE_S", 0.0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    there = {"host": "n7", "pid": 9, "process": "x", "job_id": owner, "started": "2026-01-01 00:00:00", "token": 1}
    run_dir.lock.write_text(json.dumps(there) + "\n")
    with run_dir.lock.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["begin", str(run_dir.root), str(run_dir.launch(1))]) == code


def test_requeued_from_outside_again_and_again_it_stops(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        begin(run_dir, run_dir.launch(1))
    with pytest.raises(
        HarnessError, match="is not started again: .* 3 launches in a row.*; look at the run, then submit"
    ):
        begin(run_dir, run_dir.launch(1))
    assert len(launches(run_dir)) == 3
    event = json.loads(run_dir.events.read_text().splitlines()[-1])
    assert (event["kind"], event["action"], event["alert"]) == ("launch-ended", "stop", True)


def test_a_launch_that_was_killed_because_it_hung_is_requeued_with_the_reason(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    request_kill(folder, "silent: rank 3 on n2")
    write_node_end(folder, 0, NodeEnd(host="n1", exit_code=70))
    save(run_dir, 5)
    assert end(run_dir, folder, 70, "RUNNING:None") == 75
    reason = "killed because it hung (silent: rank 3 on n2); failed with an internal error; it had saved something new"
    assert capsys.readouterr().err == f"requeue: {reason} (exit code 70)\n"


@pytest.mark.parametrize(("is_wanted", "named"), [(True, ["n2", "gpu-07.a_b"]), (False, [])])
def test_nodes_to_exclude_are_those_found_where_that_is_wanted(
    run_dir: RunDir, is_wanted: bool, named: list[str]
) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    assert bad_nodes(folder) == []
    config = (folder / "config.yaml").read_text()
    assert "exclude_bad_nodes: false" in config
    (folder / "config.yaml").write_text(
        config.replace("exclude_bad_nodes: false", f"exclude_bad_nodes: {json.dumps(is_wanted)}")
    )
    (folder / "launch.json").write_text(json.dumps({"world_size": 32, "workers_per_node": 8}))
    (folder / "bad_nodes.json").write_text(json.dumps({"n2": ["slow"], "x; rm": ["no name"]}))
    (folder / "bad_node_00003.json").write_text(json.dumps({"gpu-07.a_b": ["lost a GPU"]}))
    assert bad_nodes(folder) == named
    (folder / "bad_node_00004.json").write_text(json.dumps({"n4": ["lost a GPU"]}))
    assert bad_nodes(folder) == []  # more than half of them


@pytest.mark.parametrize(
    ("codes", "srun_code", "agreed"),
    [
        ([0, 0], 0, 0),
        ([], 0, 0),
        ([75, 75], 75, 75),
        ([75], 143, 75),
        ([70, 75], 137, 75),
        ([77, 70], 77, 77),
        ([0], 143, 0),
        ([70, 64], 70, 64),
        ([70, 65], 70, 65),
        ([70], 137, 70),
        ([], 137, 137),
        ([1], 1, 1),
    ],
)
def test_what_counts_when_nodes_and_srun_disagree(codes: list[int], srun_code: int, agreed: int) -> None:
    assert agreed_code([NodeEnd(host="n", exit_code=code) for code in codes], srun_code) == agreed


def test_the_end_is_written_down_and_told(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    write_node_end(folder, 0, NodeEnd(host="n1", exit_code=75))
    save(run_dir, 5)
    assert end(run_dir, folder, 143, "RUNNING:None") == 75
    reason = "stopped before the end, to be continued; it had saved something new"
    assert capsys.readouterr().err == f"requeue: {reason} (exit code 75)\n"
    ended = json.loads((folder / "ended.json").read_text())
    assert (ended["exit_code"], ended["action"], ended["alert"], ended["reason"]) == (75, "requeue", False, reason)
    event = json.loads(run_dir.events.read_text())
    assert (event["job_id"], event["exit_code"], event["action"]) == ("42", 75, "requeue")


@pytest.mark.parametrize(
    ("state", "code", "action"),
    [
        ("RUNNING:None:0", 75, "requeue"),
        ("RUNNING:None", 75, "requeue"),
        ("UNKNOWN", 75, "requeue"),
        ("COMPLETING:TimeLimit:0", 75, "requeue"),
        ("COMPLETING:None:0", 76, "stop"),
        ("CANCELLED:None:0", 76, "stop"),
        ("COMPLETING:None:1", 76, "requeue"),  # Slurm has counted the next start already
        ("COMPLETING:None", 76, "stop"),
    ],
)
def test_only_a_job_that_slurm_does_not_take_away_is_requeued(
    run_dir: RunDir, state: str, code: int, action: str
) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    assert end(run_dir, folder, 75, state) == code
    assert json.loads((folder / "ended.json").read_text())["action"] == action


def test_a_final_end_keeps_its_exit_code(run_dir: RunDir) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    assert end(run_dir, folder, 77, "RUNNING:None") == 77
    assert end(run_dir, folder, 0, "RUNNING:None") == 0


def test_the_batch_script_gets_the_folder_on_one_line(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["begin", str(run_dir.root), str(run_dir.launch(1))]) == 0
    assert capsys.readouterr().out == f"{run_dir.launch(1)}\n"
    assert main(["end", str(run_dir.root), str(run_dir.launch(1)), "70", "RUNNING:None"]) == 75
    assert main(["begin", str(run_dir.root), str(run_dir.launch(7))]) == 64
    assert "harness: error: there is no submission.json" in capsys.readouterr().err


def test_history_is_that_of_one_job(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    end(run_dir, begin(run_dir, run_dir.launch(1)), 70, "RUNNING:None")
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    begin(run_dir, submit(run_dir, 2))
    save(run_dir, 5)
    assert history(run_dir, "42") == [LaunchEnd(exit_code=70, progressed=True)]
    assert history(run_dir, "43") == [LaunchEnd(exit_code=None, progressed=True)]
    assert history(run_dir, "44") == []


def test_progress_is_the_newest_finished_checkpoint(run_dir: RunDir) -> None:
    save(run_dir, 100)
    save(run_dir, 80, attempt=1)
    save(run_dir, 90, attempt=1, name="step_0000090.2")
    save(run_dir, 200, attempt=1, name="other")
    (run_dir.checkpoints / "step_0000300.partial").mkdir()
    (run_dir.checkpoints / "step_0000400").mkdir()
    (run_dir.checkpoints / "step_0000400" / "manifest.json").write_text("{")
    assert newest_checkpoint(run_dir) == (1, 90)


def test_a_job_that_stopped_for_a_person_is_not_started_by_a_requeue(run_dir: RunDir) -> None:
    end(run_dir, begin(run_dir, run_dir.launch(1)), 76, "RUNNING:None")
    with pytest.raises(
        HarnessError, match="stopped, a person must look at the run; look at the run, then submit it again"
    ):
        begin(run_dir, run_dir.launch(1))


@only_root
def test_what_another_user_wrote_down_decides_nothing(run_dir: RunDir) -> None:
    save(run_dir, 5)
    strange = run_dir.launch(7)
    strange.mkdir()
    (strange / "launch.json").write_text(json.dumps({"job_id": "42", "newest_checkpoint": [0, 5]}))
    (strange / "ended.json").write_text(json.dumps({"exit_code": 76}))
    for name in ("launch.json", "ended.json"):
        os.chown(strange / name, OTHER, -1)
    folder = begin(run_dir, run_dir.launch(1))
    write_node_end(folder, 0, NodeEnd(host="a", exit_code=77))
    os.chown(folder / "node_00000.json", OTHER, -1)
    assert end(run_dir, folder, 70, "RUNNING:None") == 75


def test_what_stands_in_the_way_of_a_record_changes_no_decision(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(run_dir, run_dir.launch(1))
    (folder / "ended.json" / "full").mkdir(parents=True)
    assert main(["end", str(run_dir.root), str(folder), "77", "RUNNING:None"]) == 77
    said = capsys.readouterr().err
    assert f"harness: error: {folder / 'ended.json'} cannot be written: Is a directory" in said
    assert "stop: stopped by a person (exit code 77)" in said


def test_nodes_that_wrote_nothing_are_passed_over(tmp_path: Path) -> None:
    write_node_end(tmp_path, 1, NodeEnd(host="b", exit_code=70))
    (tmp_path / "node_00000.json").write_text("{")
    (tmp_path / "node_0.log").touch()
    assert node_ends(tmp_path) == [NodeEnd(host="b", exit_code=70)]
