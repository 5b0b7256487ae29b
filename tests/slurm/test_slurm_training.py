"""A real run over two nodes of a real Slurm, through all that interrupts one, beside the same run left in peace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cluster import Cluster

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.launch.last_words import read_stacks
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records

ROOT = Path(__file__).parents[2]
HARNESS = (sys.executable, "-m", "harness.cli")
VOCAB_SIZE = 256
TRAIN_STEPS = 80
PATIENCE_S = 400.0
"""Long enough for a machine with a dozen times as many processes as cores."""
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

pytestmark = pytest.mark.timeout(900)

CONFIG: dict[str, Any] = {
    "run": {"name": "small"},
    "model": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_hidden_size": 64,
        "vocab_size": VOCAB_SIZE,
    },
    "parallel": {"pipeline_model_parallel_size": 2, "micro_batch_size": 1},
    "data": {"channels": {"en": {"path": "en"}}},
    "phases": [
        {"name": "main", "train_steps": TRAIN_STEPS, "seq_length": 32, "global_batch_size": 16, "blend": {"en": 1}}
    ],
    "optimizer": {"learning_rate": 1e-3},
    "precision": {"dtype": "fp32"},
    "checkpoint": {"save_every_steps": 10},
    "logging": {"tensorboard": False},
    "launch": {
        "nodes": 2,
        "gpus_per_node": 0,
        "time_limit": "60",
        "signal_lead_s": 1200,
        "whole_nodes": False,
        "check_nodes": False,
        "watch": False,
        "environment_file": "environment.sh",
    },
}


class TrainingJob:
    """A run in the queue, and what a test does to it."""

    def __init__(self, cluster: Cluster, run_dir: RunDir, job_id: str) -> None:
        self.cluster = cluster
        self.run_dir = run_dir
        self.job_id = job_id

    def last_step(self) -> int:
        return max((record.step for record in records(self.run_dir)), default=0)

    def wait_for_steps(self, count: int) -> None:
        """Waits until so many more steps are done."""
        goal = self.last_step() + count
        self.cluster.wait_for(lambda: self.last_step() >= goal, timeout_s=PATIENCE_S, what=f"step {goal}")

    def wait_for_exit(self, code: int, min_step: int) -> None:
        """Waits until a launch has left with that exit code, at that step or later."""
        self.cluster.wait_for(
            lambda: any(exit["exit_code"] == code and exit["step"] >= min_step for exit in self.events("exit")),
            timeout_s=PATIENCE_S,
            what=f"a launch leaves with {code} after step {min_step}",
        )

    def finish(self) -> dict[str, str]:
        """Waits for the end of the job, and returns its fields."""
        job = self.cluster.job
        self.cluster.wait_for(lambda: job(self.job_id)["JobState"] in OVER, timeout_s=PATIENCE_S, what="the job ends")
        return dict(job(self.job_id))

    def processes(self, node: int) -> list[int]:
        """What runs on a node of the job: the node's launcher and its workers."""
        ours = set(self.cluster.processes("SLURM_CONF", str(self.cluster.folder / "slurm.conf")))
        found = [pid for pid in self.cluster.processes("SLURM_NODEID", str(node)) if pid in ours]
        return [pid for pid in found if b"harness." in _command_line(pid)]

    def worker(self, node: int) -> int:
        """The process of the one rank of a node."""
        found = [pid for pid in self.processes(node) if b"harness.train.worker" in _command_line(pid)]
        return min(found)  # what it starts itself is younger

    @contextmanager
    def paused(self, node: int) -> Iterator[None]:
        """Stands still meanwhile: the one rank of a node is stopped, and the others wait for it."""
        worker = self.worker(node)
        os.kill(worker, signal.SIGSTOP)
        yield
        os.kill(worker, signal.SIGCONT)

    def log(self) -> str:
        return (self.run_dir.launches / f"job_{self.job_id}.log").read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.run_dir.events
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def records(run_dir: RunDir) -> list[StepRecord]:
    return list(read_records(run_dir.metrics)) if run_dir.metrics.exists() else []


def curve(run_dir: RunDir) -> list[tuple[int, float, float, int]]:
    """Step, loss, gradient norm and data of every step that counts."""
    return [
        (record.step, record.values["train/lm_loss"], record.values["optim/grad_norm"], record.batch_hash)
        for record in records(run_dir)
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a configuration."""
    folder = tmp_path_factory.mktemp("site")
    random = np.random.RandomState(0)
    (folder / "en").mkdir()
    writer = PartWriter(folder / "en", 0, token_dtype(VOCAB_SIZE))
    for _ in range(400):
        writer.add_document(random.randint(0, VOCAB_SIZE, size=random.randint(20, 60)).tolist())
    writer.finish()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / "environment.sh").write_text(f"export PYTHONPATH={ROOT}\nexport OMP_NUM_THREADS=1\n")
    return folder


@pytest.fixture(scope="module")
def in_peace(site: Path) -> RunDir:
    """The run, left alone, on this machine."""
    return trained_here(site, "in_peace", "config.yaml")


def trained_here(site: Path, name: str, config: str) -> RunDir:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        (*HARNESS, "train", config, "--run-dir", name),
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return RunDir(site / name)


def launch(cluster: Cluster, site: Path, name: str, *arguments: str, config: str = "config.yaml") -> TrainingJob:
    done = subprocess.run(
        (*HARNESS, "launch", config, "--run-dir", name, *arguments),
        cwd=site,
        env=cluster.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return TrainingJob(cluster, RunDir(site / name), done.stdout.partition("queued job ")[2].partition(":")[0])


def interrupted(cluster: Cluster, site: Path, name: str, *arguments: str) -> TrainingJob:
    """A run that has done some steps and saved, and is about to be interrupted."""
    job = launch(cluster, site, name, *arguments)
    job.wait_for_steps(12)
    return job


def assert_as_in_peace(job: TrainingJob, in_peace: RunDir) -> None:
    """The job has ended well after one restart, and its loss line is that of the run that was left alone."""
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("COMPLETED", "0:0", "1")
    assert [step for step, *_ in curve(job.run_dir)] == list(range(1, TRAIN_STEPS + 1))
    assert curve(job.run_dir) == curve(in_peace)
    assert len(job.events("resumed")) == 1


@pytest.mark.smoke
@pytest.mark.slow
def test_at_its_time_limit_it_saves_comes_back_and_goes_on(cluster: Cluster, site: Path, in_peace: RunDir) -> None:
    job = interrupted(cluster, site, "time_limit")
    with job.paused(node=1):  # Slurm looks at time limits every half minute, in which the run would be done
        # As long as the lead time: it is told as soon as Slurm looks.
        cluster.command("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=20")
        cluster.wait_for(lambda: "the time limit is near" in job.log(), timeout_s=150, what="Slurm tells the job")
    job.wait_for_exit(75, min_step=12)
    cluster.command("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=60")
    assert_as_in_peace(job, in_peace)
    assert [event["exit_code"] for event in job.events("launch-ended")] == [75, 0]
    (resumed,) = job.events("resumed")
    assert resumed["step"] == job.events("exit")[0]["step"]  # not a step is done twice


@pytest.mark.slow
def test_a_phase_in_another_layout_begins_after_a_requeue(cluster: Cluster, site: Path) -> None:
    """Two pipeline stages, then two tensor ranks: the same as on one machine, where one command does both."""
    (only,) = CONFIG["phases"]
    first, second = (deepcopy(only) | {"name": name, "train_steps": TRAIN_STEPS // 2} for name in ("stages", "cut"))
    second["parallel"] = {"tensor_model_parallel_size": 2, "micro_batch_size": 1}
    (site / "phases.yaml").write_text(yaml.safe_dump(CONFIG | {"phases": [first, second]}, sort_keys=False))
    job = launch(cluster, site, "phases", config="phases.yaml")
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("COMPLETED", "0:0", "1")
    assert [event["exit_code"] for event in job.events("launch-ended")] == [75, 0]
    assert [(event["step"], event["phase"]) for event in job.events("phase")] == [(TRAIN_STEPS // 2, "cut")]
    assert [record.step for record in records(job.run_dir)] == list(range(1, TRAIN_STEPS + 1))
    assert curve(job.run_dir) == curve(trained_here(site, "phases_in_peace", "phases.yaml"))


@pytest.mark.slow
def test_preempted_it_comes_back_and_goes_on(cluster: Cluster, site: Path, in_peace: RunDir) -> None:
    job = interrupted(cluster, site, "preempted")
    cluster.command("scontrol", "requeue", job.job_id)
    assert_as_in_peace(job, in_peace)


@pytest.mark.slow
def test_a_node_whose_processes_are_killed_is_a_failure_it_comes_back_from(
    cluster: Cluster, site: Path, in_peace: RunDir
) -> None:
    job = interrupted(cluster, site, "killed")
    killed = job.processes(node=1)
    assert len(killed) >= 2  # the launcher and its worker
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert_as_in_peace(job, in_peace)
    assert [event["action"] for event in job.events("launch-ended")] == ["requeue", "stop"]


@pytest.mark.slow
def test_a_cancelled_step_is_a_failure_it_comes_back_from(cluster: Cluster, site: Path, in_peace: RunDir) -> None:
    job = interrupted(cluster, site, "cancelled")
    cluster.command("scancel", f"{job.job_id}.0")
    assert_as_in_peace(job, in_peace)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_the_watcher_has_the_launch_killed(
    cluster: Cluster, site: Path, in_peace: RunDir
) -> None:
    watched = ("--set", "launch.watch=true", "--set", "watch.kill_hung_after_s=40")
    job = interrupted(cluster, site, "hung", *watched)
    hanging = job.worker(node=1)
    os.kill(hanging, signal.SIGSTOP)
    named = f"(process {hanging})"
    cluster.wait_for(lambda: named in harness(site, "diagnose", "hung"), timeout_s=PATIENCE_S, what="the rank is named")
    (line,) = [line for line in harness(site, "diagnose", "hung").splitlines() if named in line]
    assert line.startswith("quiet for ")
    assert "rank 1 on " in line

    assert_as_in_peace(job, in_peace)
    (event,) = job.events("hung")
    assert f"rank 1 on {os.uname().nodename} {named}" in event["reason"]
    first = job.events("launch-ended")[0]
    assert (first["exit_code"], first["action"]) == (70, "requeue")
    assert first["reason"].startswith("killed because it hung (no rank has made progress for ")
    stacks = [read_stacks(job.run_dir.launch(1) / f"stacks_node_0000{rank}.txt")[rank] for rank in (0, 1)]
    assert all("harness/train/main.py" in text for text in stacks), stacks


@pytest.mark.slow
def test_nodes_are_looked_at_and_a_stop_is_final(cluster: Cluster, site: Path) -> None:
    job = launch(cluster, site, "stopped", "--set", "launch.check_nodes=true", "--set", "launch.watch=true")
    job.wait_for_steps(3)
    reports = json.loads((job.run_dir.launch(1) / "nodes.json").read_text())
    assert [report["rank"] for report in reports] == [0, 1]
    assert all(report["sees_file"] and report["all_reduce_ms"]["pipeline"] > 0 for report in reports)
    assert harness(site, "status", "stopped").splitlines()[1].startswith("state      training: process ")
    assert "watching " in (job.run_dir.launch(1) / "watch.log").read_text()

    harness(site, "signal", "stopped", "stop")
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "77:0", "0")
    assert harness(site, "status", "stopped").splitlines()[1] == "state      stopped: stopped by a person"
    told = [json.loads(line) for line in job.run_dir.watch_alerts.read_text().splitlines()]
    assert [(each["kind"], each["state"]) for each in told] == [("stopped", "open")]


def harness(site: Path, *arguments: str) -> str:
    """What a command prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (*HARNESS, *arguments)
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
