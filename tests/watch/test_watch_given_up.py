"""A job that gives up reaches people through `harness watch`, whichever of the two came first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import root
from harness.errors import EXIT_INTERNAL
from harness.run.event_types import LaunchEnded
from harness.run.events import read_events
from harness.run.launches import NodeEnd, write_node_end
from harness.run.paths import RunDir

CONFIG = """\
run: {{name: small}}
model: {{num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}}
data: {{channels: {{zh: {{path: zh}}}}}}
phases: [{{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {{zh: 1}}}}]
optimizer: {{learning_rate: 3e-4}}
launch: {{max_failures_without_progress: 1}}
watch: {{alert_command: [tee, -a, {log}]}}
"""


@pytest.fixture
def alerts(tmp_path: Path) -> Path:
    """The file into which the run's alerts go."""
    return tmp_path / "alerts.txt"


@pytest.fixture
def run(tmp_path: Path, alerts: Path) -> RunDir:
    """A run that was submitted, as job 42."""
    made = RunDir(tmp_path / "run")
    made.make_folders()
    folder = made.launch(1)
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(log=alerts))
    (folder / "submission.json").write_text(json.dumps({"nodes": 1, "workers_per_node": 1, "job_id": "42"}))
    return made


def job(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the batch script runs before and after training."""
    command = [sys.executable, "-m", "harness.launch.job", *arguments]
    environment = {**os.environ, "SLURM_JOB_ID": "42"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def give_up(run: RunDir, folder: str) -> None:
    write_node_end(Path(folder), 0, NodeEnd(host="n1", exit_code=EXIT_INTERNAL))
    ended = job("end", str(run.root), folder, str(EXIT_INTERNAL), "RUNNING:None")
    assert ended.returncode == EXIT_INTERNAL, ended.stderr


def look(run: RunDir) -> None:
    done = CliRunner().invoke(root, ["watch", str(run.root), "--once"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("is_watched_before", [True, False])
def test_a_job_that_gives_up_is_an_alert(run: RunDir, alerts: Path, is_watched_before: bool) -> None:
    begun = job("begin", str(run.root), str(run.launch(1)))
    assert begun.returncode == 0, begun.stderr
    if is_watched_before:
        look(run)
    give_up(run, begun.stdout.strip())
    (event,) = [event for event in read_events(run.events) if isinstance(event, LaunchEnded)]
    assert event.alert
    look(run)
    look(run)
    told = [json.loads(line)["text"] for line in alerts.read_text().splitlines()]
    assert told == [f"small: job 42 has given up (exit code 70): {event.reason}"]


def test_no_writer_leaves_half_a_line_for_the_next(run: RunDir, alerts: Path) -> None:
    """Half a line, as a full disk or a kill leaves it, costs that line and none of those behind it."""
    begun = job("begin", str(run.root), str(run.launch(1)))
    with run.events.open("a") as events:
        events.write('{"time": 1.0, "kind": "saved", "attempt": 0, "st')
    give_up(run, begun.stdout.strip())
    look(run)
    assert "has given up" in alerts.read_text()
