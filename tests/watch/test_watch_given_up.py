"""A job that gives up tells people itself, once, whether or not a watcher sees it too."""

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
from harness.run.launches import Failure, NodeEnd, write_node_end
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


END = NodeEnd(
    host="n1",
    exit_code=EXIT_INTERNAL,
    failure=Failure(rank=1, host="n1", text="rank 1 was killed by SIGKILL", return_code=-9),
)


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
    write_node_end(Path(folder), 0, END)
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
    (told,) = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert told["what"] == (
        f"the run has ended, and does not come back by itself: {event.reason} (exit code 70); "
        "first cause: rank 1 was killed by SIGKILL"
    )
    assert (told["kind"], told["severity"], told["key"]) == ("failed", "page", "ended")
    assert told["look"] == f"harness status {run.root}"
    look(run)
    look(run)
    assert len(alerts.read_text().splitlines()) == 1, "it was told twice"


def test_a_job_that_gives_up_while_nobody_can_be_reached_is_told_by_whoever_looks_next(
    run: RunDir, alerts: Path
) -> None:
    begun = job("begin", str(run.root), str(run.launch(1)))
    alerts.mkdir()  # nothing can be written there
    give_up(run, begun.stdout.strip())
    status = CliRunner().invoke(root, ["status", str(run.root)]).output
    assert "alert      [page] ended since " in status
    assert "alert      1 messages wait to be delivered since " in status
    assert "alert      nothing reaches tee (command) since " in status
    alerts.rmdir()
    look(run)
    (told,) = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert told["kind"] == "failed"


def test_a_launch_that_failed_and_comes_back_is_no_page(run: RunDir, alerts: Path) -> None:
    config = run.launch(1) / "config.yaml"
    patient = config.read_text().replace("max_failures_without_progress: 1", "max_failures_without_progress: 2")
    config.write_text(patient)
    begun = job("begin", str(run.root), str(run.launch(1)))
    write_node_end(Path(begun.stdout.strip()), 0, END)
    assert job("end", str(run.root), begun.stdout.strip(), "70", "RUNNING:None").returncode == 75
    (told,) = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert (told["kind"], told["severity"]) == ("restart", "warning")


@pytest.mark.parametrize(("code", "kinds"), [(0, ["finished"]), (77, ["stopped"]), (75, [])])
def test_ends_that_were_meant_are_no_pages(run: RunDir, alerts: Path, code: int, kinds: list[str]) -> None:
    begun = job("begin", str(run.root), str(run.launch(1)))
    write_node_end(Path(begun.stdout.strip()), 0, NodeEnd(host="n1", exit_code=code))
    job("end", str(run.root), begun.stdout.strip(), str(code), "RUNNING:None")
    lines = alerts.read_text().splitlines() if alerts.exists() else []
    told = [json.loads(line) for line in lines]
    assert [(each["kind"], each["severity"]) for each in told] == [(kind, "info") for kind in kinds]


def test_a_job_that_cannot_begin_tells_people(run: RunDir, alerts: Path) -> None:
    (run.launch(1) / "submission.json").write_text("{}")
    failed = job("begin", str(run.root), str(run.launch(1)))
    assert failed.returncode == 64
    (told,) = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert told["kind"] == "failed"
    assert "the job could not begin: there is no submission.json in" in told["what"]


def test_a_node_without_a_word_is_the_first_cause_if_the_others_only_lost_it(run: RunDir, alerts: Path) -> None:
    begun = job("begin", str(run.root), str(run.launch(1)))
    folder = Path(begun.stdout.strip())
    (folder / "nodes.txt").write_text("n1\nn2\n")
    lost = Failure(rank=0, host="n1", text="rank 0 left with exit code 70", return_code=70)
    write_node_end(folder, 0, NodeEnd(host="n1", exit_code=70, failure=lost))
    job("end", str(run.root), str(folder), "70", "RUNNING:None")
    (told,) = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert "first cause: n2 left no word: the node, or what ran there, was killed or cut off" in told["what"]


def test_no_writer_leaves_half_a_line_for_the_next(run: RunDir, alerts: Path) -> None:
    """Half a line, as a full disk or a kill leaves it, costs that line and none of those behind it."""
    begun = job("begin", str(run.root), str(run.launch(1)))
    with run.events.open("a") as events:
        events.write('{"time": 1.0, "kind": "saved", "attempt": 0, "st')
    give_up(run, begun.stdout.strip())
    look(run)
    assert "does not come back by itself" in alerts.read_text()
    assert any(isinstance(event, LaunchEnded) for event in read_events(run.events))
