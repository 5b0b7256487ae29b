"""The batch scripts beside training, on a real Slurm: data preparation, and the watcher as a job of its own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cluster import Cluster

from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

ROOT = Path(__file__).parents[2]
SLURM_DIR = ROOT / "slurm"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

CONFIG = {
    "run": {"name": "watched"},
    "model": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 64, "vocab_size": 256},
    "data": {"channels": {"en": {"path": "en"}}},
    "phases": [{"name": "main", "train_steps": 50, "seq_length": 16, "global_batch_size": 8, "blend": {"en": 1}}],
    "optimizer": {"learning_rate": 1e-3},
    "watch": {"poll_s": 0.2, "least_free_gib": 0.0},
}


def sbatch(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """Queues a script as its first lines say, and returns the number of the job."""
    environment = f"--export=PATH,HOME,PYTHON={sys.executable},PYTHONPATH={ROOT}"
    flags = (f"--chdir={folder}", f"--output={folder}/job_%j.log", "--time=10", environment)
    return cluster.command("sbatch", "--parsable", *flags, *arguments).strip()


def finish(cluster: Cluster, job_id: str) -> dict[str, str]:
    cluster.wait_for(lambda: cluster.job(job_id)["JobState"] in OVER, timeout_s=150, what=f"job {job_id} ends")
    return dict(cluster.job(job_id))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Text that takes a few seconds to tokenize, and a tokenizer for it."""
    generator = random.Random(7)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)]
    with (tmp_path / "text.jsonl").open("w") as file:
        for _ in range(3000):
            file.write(json.dumps({"text": " ".join(generator.choices(words, k=200))}) + "\n")
    return tmp_path


def test_data_preparation_goes_on_where_it_was_after_a_requeue(cluster: Cluster, corpus: Path) -> None:
    script = str(SLURM_DIR / "data_prep.sbatch")
    trains = ("train-tokenizer", "en=text.jsonl", "--vocab-size", "1024", "--spare-ids", "0")
    tokenizer = sbatch(cluster, corpus, script, *trains, "--output", "tokenizer.json")
    makes = ("tokenize", "text.jsonl", "--tokenizer", "tokenizer.json", "--channel", "en", "--tokens-per-part", "50000")
    job = sbatch(cluster, corpus, f"--dependency=afterok:{tokenizer}", script, *makes, "--output", "requeued")
    assert finish(cluster, tokenizer)["JobState"] == "COMPLETED", (corpus / f"job_{tokenizer}.log").read_text()

    parts = corpus / "requeued" / "en" / "parts.jsonl"
    cluster.wait_for(parts.exists, timeout_s=60, what="the first part is finished")
    cluster.command("scontrol", "requeue", job)
    fields = finish(cluster, job)
    log = (corpus / f"job_{job}.log").read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), log

    command = (sys.executable, "-m", "harness.cli", "data", *makes, "--output", "in_peace")
    done = subprocess.run(command, cwd=corpus, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    listed = [(corpus / name / "en" / "parts.jsonl").read_text() for name in ("requeued", "in_peace")]
    assert listed[0] == listed[1]  # tokens, documents and hash of every part
    assert listed[0].count("\n") > 3


def test_a_watcher_of_its_own_goes_on_after_a_requeue_and_leaves_with_the_run(cluster: Cluster, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.make_folders()
    run.config.write_text(yaml.safe_dump(CONFIG))
    event(run, "started", 0)
    train(run, range(1, 20))
    job = sbatch(cluster, tmp_path, str(SLURM_DIR / "watch.sbatch"), str(run.root), sys.executable)
    cluster.wait_for(lambda: watched_step(run) == 19, timeout_s=60, what="the watcher has seen step 19")
    cluster.command("scontrol", "requeue", job)
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "1", timeout_s=60, what="the watcher is requeued")
    train(run, range(20, 51))
    event(run, "exit", 50, exit_code=0, reason="all steps are done")
    fields = finish(cluster, job)
    log = (tmp_path / f"job_{job}.log").read_text()
    assert (fields["JobState"], fields["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert log.count("watching ") == 2
    assert "training has ended at step 50 with exit code 0" in log


def train(run: RunDir, steps: range) -> None:
    with run.metrics.open("a") as metrics:
        for step in steps:
            record = StepRecord(
                attempt=0,
                step=step,
                time=time.time(),
                phase="main",
                consumed_samples=8 * step,
                consumed_tokens=128 * step,
                batch_hash=step,
                values={"train/lm_loss": 3.0, "train/lm_loss/en": 3.0, "optim/grad_norm": 1.0},
            )
            metrics.write(to_json_line(record))


def event(run: RunDir, kind: str, step: int, **fields: object) -> None:
    with run.events.open("a") as events:
        events.write(json.dumps({"time": time.time(), "kind": kind, "attempt": 0, "step": step, **fields}) + "\n")


def watched_step(run: RunDir) -> int | None:
    try:
        return int(json.loads((run.watch / "heartbeat.json").read_text())["step"])
    except (OSError, ValueError):
        return None
