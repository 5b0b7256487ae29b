"""The batch script on a real Slurm, with a stand-in for the trainer: what is requeued, what stops, what is noted."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

from harness.channels.index_file import index_header

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

pytestmark = pytest.mark.timeout(600)

CONFIG = """\
run: {name: small}
model: {num_layers: 2, hidden_size: 32, num_attention_heads: 4, ffn_hidden_size: 64, vocab_size: 300}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 8, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
launch:
  nodes: 2
  gpus_per_node: 0
  time_limit: "10"
  signal_lead_s: 30
  whole_nodes: false
  check_nodes: false
  watch: false
  environment_file: environment.sh
"""

Behaviour = dict[str, Any]


class Submitted:
    """A run in the queue of the test's Slurm."""

    def __init__(self, cluster: Cluster, folder: Path, job_id: str) -> None:
        self.cluster = cluster
        self.run = folder / "run"
        self.job_id = job_id

    def finish(self, timeout_s: float = 150) -> dict[str, str]:
        """Waits for the end of the job, and returns its fields."""
        self.cluster.wait_for(lambda: self.state() in OVER, timeout_s=timeout_s, what=f"job {self.job_id} ends")
        return dict(self.cluster.job(self.job_id))

    def state(self) -> str:
        return self.cluster.job(self.job_id)["JobState"]

    def wait_for_launch(self, number: int) -> None:
        """Waits until all workers of a launch are at work."""
        folder = self.run / "launches" / f"{number:04d}"
        logs = (folder / "node_0.log", folder / "node_1.log")
        self.cluster.wait_for(
            lambda: all(log.exists() and "works" in log.read_text() for log in logs),
            timeout_s=150,
            what=f"launch {number} works",
        )

    def ended(self) -> list[Any]:
        """(exit code, action) of each launch; None where the whole job was killed."""
        folders = sorted(path for path in (self.run / "launches").iterdir() if path.name.isdecimal())
        return [_ended(folder / "ended.json") for folder in folders]

    def log(self) -> str:
        path = self.run / "launches" / f"job_{self.job_id}.log"
        return path.read_text() if path.exists() else ""

    def events(self) -> list[Any]:
        return [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]


def _ended(path: Path) -> tuple[int, str] | None:
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    return fields["exit_code"], fields["action"]


def harness(cluster: Cluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "harness.cli", *arguments)
    environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Callable[..., Submitted]:
    """Queues a run whose workers behave as told, launch by launch."""

    def queue(behaviours: Iterable[Behaviour], *arguments: str, environment: str = "") -> Submitted:
        (tmp_path / "config.yaml").write_text(CONFIG)
        (tmp_path / "zh.bin").write_bytes(b"\1\0\2\0")
        (tmp_path / "zh.idx").write_bytes(index_header("uint16", 1) + struct.pack("<iqqq", 2, 0, 0, 1))
        (tmp_path / "environment.sh").write_text(f"export PYTHONPATH={STAND_IN}:{ROOT}\n{environment}")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "behaviour.json").write_text(json.dumps(list(behaviours)))
        done = harness(cluster, tmp_path, "launch", "config.yaml", "--run-dir", "run", *arguments)
        assert done.returncode == 0, done.stderr
        job_id = done.stdout.partition("queued job ")[2].partition(":")[0]
        return Submitted(cluster, tmp_path, job_id)

    return queue


@pytest.mark.smoke
def test_a_run_that_finishes_is_a_completed_job(submit: Callable[..., Submitted]) -> None:
    job = submit([{"save": 10, "exit": 0}])
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("COMPLETED", "0:0", "0")
    assert job.ended() == [(0, "stop")]
    folder = job.run / "launches" / "0001"
    assert "rank 0 of 2 works" in (folder / "node_0.log").read_text()
    assert "rank 1 of 2 works" in (folder / "node_1.log").read_text()
    assert f"after a hang: {folder}/flight_recorder" in job.log()
    submission = json.loads((folder / "submission.json").read_text())
    assert submission["job_id"] == job.job_id
    assert submission["command"][0] == "sbatch"
    assert len(submission["git"]["commit"]) == 40


@pytest.mark.parametrize(
    "flag",
    [
        "--gpus-per-node=2",
        "--gpus-per-node=a100:2",
        "--gres=gpu:a100:2",
        "--gpus=a100:4",
        "--gpus-per-task=2",
    ],
)
def test_a_request_for_gpus_in_the_words_of_the_cluster(submit: Callable[..., Submitted], flag: str) -> None:
    settings = ("launch.gpus_per_node=2", "launch.workers_per_node=1", f"launch.sbatch_flags=[{flag}]")
    job = submit([{"save": 1, "exit": 75}, {"exit": 0}], *(word for each in settings for word in ("--set", each)))
    fields = job.finish()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert "gpu" in job.cluster.command("scontrol", "show", "job", job.job_id)
    assert job.ended() == [(75, "requeue"), (0, "stop")]


def test_a_kind_of_gpu_that_is_not_there_is_refused_by_slurm(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "zh.bin").write_bytes(b"\1\0\2\0")
    (tmp_path / "zh.idx").write_bytes(index_header("uint16", 1) + struct.pack("<iqqq", 2, 0, 0, 1))
    (tmp_path / "environment.sh").touch()
    settings = ("launch.gpus_per_node=2", "launch.workers_per_node=1", "launch.sbatch_flags=[--gres=gpu:h100:2]")
    flags = (word for each in settings for word in ("--set", each))
    done = harness(cluster, tmp_path, "launch", "config.yaml", "--run-dir", "run", *flags)
    assert done.returncode == 64
    assert "Slurm refused the job: error: Batch job submission failed: Requested node configuration" in done.stderr


@pytest.mark.smoke
def test_it_comes_back_after_every_kind_of_end_until_it_is_done(submit: Callable[..., Submitted]) -> None:
    job = submit([{"save": 1, "exit": 75}, {"save": 2, "exit": 70}, {"save": 3, "die_on_rank": 1}, {"exit": 0}])
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "3")
    assert job.ended() == [(75, "requeue"), (70, "requeue"), (70, "requeue"), (0, "stop")]
    assert "rank 1 was killed by SIGKILL" in (job.run / "launches" / "0003" / "node_1.log").read_text()


@pytest.mark.parametrize(("code", "alert"), [(64, True), (65, True), (76, True), (77, False)])
def test_some_ends_are_final(submit: Callable[..., Submitted], code: int, alert: bool) -> None:
    job = submit([{"save": 1, "exit": code}])
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", f"{code}:0", "0")
    assert job.ended() == [(code, "stop")]
    event = job.events()[-1]
    assert (event["kind"], event["alert"], event["exit_code"]) == ("launch-ended", alert, code)


def test_a_crash_loop_stops_before_it_burns_the_allocation(submit: Callable[..., Submitted]) -> None:
    job = submit([{"save": 1, "exit": 75}, {"exit": 70}])
    fields = job.finish(280)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "70:0", "3")
    assert job.ended() == [(75, "requeue"), (70, "requeue"), (70, "requeue"), (70, "stop")]
    assert "nothing new was saved in 3 launches in a row, 3 of them failures (at most 3 failures)" in job.log()
    assert job.events()[-1]["alert"] is True


def test_near_the_time_limit_the_run_is_told_to_save_and_stop(submit: Callable[..., Submitted]) -> None:
    job = submit([{"save": 1, "until_order": True, "exit": 75}, {"exit": 0}], "--time", "1")
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    order = json.loads((job.run / "order.json").read_text())
    assert order == {"kind": "save-and-stop", "reason": f"Slurm job {job.job_id}: the time limit is near"}
    assert job.ended() == [(75, "requeue"), (0, "stop")]


def test_requeued_by_the_scheduler_it_resumes(submit: Callable[..., Submitted], cluster: Cluster) -> None:
    job = submit([{"save": 1, "until_order": True, "exit": 75}, {"exit": 0}])
    job.wait_for_launch(1)
    cluster.command("scontrol", "requeue", job.job_id)
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert job.ended()[-1] == (0, "stop")


def test_held_by_a_person_it_waits_until_it_is_released(submit: Callable[..., Submitted], cluster: Cluster) -> None:
    job = submit([{"save": 1, "until_order": True, "exit": 75}, {"exit": 0}])
    job.wait_for_launch(1)
    cluster.command("scontrol", "requeuehold", job.job_id)
    cluster.wait_for(
        lambda: (cluster.job(job.job_id)["JobState"], cluster.job(job.job_id)["Priority"]) == ("PENDING", "0"),
        timeout_s=150,
        what="the job is held",
    )
    cluster.command("scontrol", "release", job.job_id)
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")


def test_a_cancelled_step_is_a_launch_cut_short(submit: Callable[..., Submitted], cluster: Cluster) -> None:
    job = submit([{"save": 1, "until_order": True, "exit": 75}, {"exit": 0}])
    job.wait_for_launch(1)
    cluster.command("scancel", f"{job.job_id}.0")
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1")
    assert job.ended() == [(137, "requeue"), (0, "stop")]  # Slurm cancels a step with SIGKILL


@pytest.mark.smoke
def test_a_job_that_is_cancelled_does_not_come_back(submit: Callable[..., Submitted], cluster: Cluster) -> None:
    job = submit([{"save": 1, "until_order": True, "exit": 75}])
    job.wait_for_launch(1)
    cluster.command("scancel", job.job_id)
    fields = job.finish()
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0")
    cluster.wait_for(lambda: job.ended() == [(75, "stop")], timeout_s=150, what="the launch is written down")
    assert job.events()[-1]["reason"] == "the job was cancelled, or preempted by Slurm"


def test_a_node_that_does_not_answer_is_excluded_and_another_one_takes_its_place(
    submit: Callable[..., Submitted], tmp_path: Path
) -> None:
    settings = ("launch.check_nodes=true", "launch.exclude_bad_nodes=true", "parallel.data_parallel_size=2")
    with_dead_node = "export DEAD_NODE=n2 OMP_NUM_THREADS=1\n"
    job = submit([{"exit": 0}], *chain.from_iterable(("--set", one) for one in settings), environment=with_dead_node)
    fields = job.finish(280)
    assert (fields["JobState"], fields["Restarts"], fields["ExcNodeList"]) == ("COMPLETED", "1", "n2")
    assert job.ended() == [(70, "requeue"), (0, "stop")]
    nodes = [(job.run / "launches" / number / "nodes.txt").read_text().split() for number in ("0001", "0002")]
    assert nodes == [["n1", "n2"], ["n1", "n3"]]
    assert (
        "1 of 2 ranks did not answer within 20 s: rank 1 on n2"
        in (job.run / "launches" / "0001" / "node_0.log").read_text()
    )
    assert "excluded from now on: n2" in job.log()


@pytest.mark.smoke
def test_a_wrong_configuration_never_reaches_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = harness(cluster, tmp_path, "launch", "config.yaml", "--run-dir", "run")
    assert done.returncode == 64
    assert "data.channels.zh: there is no zh/parts.jsonl, and zh.bin and zh.idx cannot be read" in done.stderr
    assert "launch.environment_file: environment.sh cannot be read" in done.stderr
    assert str(tmp_path) not in cluster.command("scontrol", "show", "job")
    assert not (tmp_path / "run").exists()


def test_a_job_that_slurm_refuses_leaves_no_launch(submit: Callable[..., Submitted], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Slurm refused the job: .*invalid partition specified: nowhere"):
        submit([{}], "--partition", "nowhere")
    assert list((tmp_path / "run" / "launches").iterdir()) == []
