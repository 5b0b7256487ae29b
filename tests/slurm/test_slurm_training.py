"""A real run over two nodes of a real Slurm, through all that interrupts one, beside the same run left in peace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cluster import Cluster

from data_prep.indexed_writer import PartWriter, token_dtype
from harness.metrics.record import StepRecord, read_records
from harness.run_dir import RunDir

ROOT = Path(__file__).parents[2]
HARNESS = (sys.executable, "-m", "harness.cli")
VOCAB_SIZE = 256
TRAIN_STEPS = 150
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

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
        self.cluster.wait_for(lambda: self.last_step() >= goal, timeout_s=150, what=f"step {goal}")

    def wait_for_exit(self, code: int, min_step: int) -> None:
        """Waits until a launch has left with that exit code, at that step or later."""
        self.cluster.wait_for(
            lambda: any(exit["exit_code"] == code and exit["step"] >= min_step for exit in self.events("exit")),
            timeout_s=240,
            what=f"a launch leaves with {code} after step {min_step}",
        )

    def finish(self) -> dict[str, str]:
        """Waits for the end of the job, and returns its fields."""
        job = self.cluster.job
        self.cluster.wait_for(lambda: job(self.job_id)["JobState"] in OVER, timeout_s=240, what="the job ends")
        return dict(job(self.job_id))

    def worker(self, rank: int) -> int:
        """Process of a rank."""
        ours = set(self.cluster.processes("SLURM_CONF", str(self.cluster.folder / "slurm.conf")))
        found = [pid for pid in self.cluster.processes("RANK", str(rank)) if pid in ours]
        workers = [pid for pid in found if b"harness.train.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return min(workers)  # what it starts itself is younger

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.run_dir.events
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]


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
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        (*HARNESS, "train", "config.yaml", "--run-dir", "in_peace"),
        cwd=site,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return RunDir(site / "in_peace")


def launch(cluster: Cluster, site: Path, name: str, *arguments: str) -> TrainingJob:
    done = subprocess.run(
        (*HARNESS, "launch", "config.yaml", "--run-dir", name, *arguments),
        cwd=site,
        env=cluster.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return TrainingJob(cluster, RunDir(site / name), done.stdout.partition("queued job ")[2].partition(":")[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_interrupts_it_the_loss_line_is_that_of_a_run_in_peace(
    cluster: Cluster, site: Path, in_peace: RunDir
) -> None:
    job = launch(cluster, site, "interrupted")
    job.wait_for_steps(12)
    cluster.command(
        "scontrol", "update", f"JobId={job.job_id}", "TimeLimit=20"
    )  # as long as the lead time: told at once
    job.wait_for_exit(75, min_step=12)
    cluster.command("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=60")
    job.wait_for_steps(12)
    os.kill(job.worker(rank=1), signal.SIGKILL)
    job.wait_for_steps(1)
    job.wait_for_steps(12)
    cluster.command("scontrol", "requeue", job.job_id)

    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"]) == ("COMPLETED", "0:0")
    assert int(fields["Restarts"]) >= 3
    assert [step for step, *_ in curve(job.run_dir)] == list(range(1, TRAIN_STEPS + 1))
    assert curve(job.run_dir) == curve(in_peace)
    ends = [event["exit_code"] for event in job.events("launch-ended")]
    # A launch that Slurm takes away is written down only if it saves and leaves before it is killed.
    assert ends in ([75, 70, 0], [75, 70, 75, 0], [75, 70, 70, 0])
    assert len(job.events("resumed")) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_hangs_is_named_and_a_stop_is_final(cluster: Cluster, site: Path) -> None:
    job = launch(cluster, site, "stopped", "--set", "launch.check_nodes=true", "--set", "launch.watch=true")
    job.wait_for_steps(3)
    reports = json.loads((job.run_dir.launch(1) / "nodes.json").read_text())
    assert [report["rank"] for report in reports] == [0, 1]
    assert all(report["sees_file"] and report["all_reduce_ms"]["pipeline"] > 0 for report in reports)
    assert harness(site, "status", "stopped").splitlines()[1].startswith("state      training: process ")

    assert "watching " in (job.run_dir.launch(1) / "watch.log").read_text()

    hanging = job.worker(rank=1)
    os.kill(hanging, signal.SIGSTOP)
    named = f"(process {hanging})"
    cluster.wait_for(lambda: named in harness(site, "diagnose", "stopped"), timeout_s=90, what="the rank is named")
    (line,) = [line for line in harness(site, "diagnose", "stopped").splitlines() if named in line]
    assert line.startswith("quiet for ")
    assert "rank 1 on " in line
    os.kill(hanging, signal.SIGCONT)

    harness(site, "signal", "stopped", "stop")
    fields = job.finish()
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "77:0", "0")
    assert harness(site, "status", "stopped").splitlines()[1] == "state      stopped: stopped by a person"


def harness(site: Path, *arguments: str) -> str:
    """What a command prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (*HARNESS, *arguments)
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
