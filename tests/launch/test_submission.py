"""`harness launch` with an sbatch that only writes down what it was asked."""

from __future__ import annotations

import json
import os
import shlex
import struct
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.channels.index_file import index_header
from harness.config.load import load_config
from harness.errors import ConfigError, UsageError
from harness.launch import submission
from harness.launch.submission import SOURCE, Options, launch

CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
watch: {alert_command: [cat]}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration, data, and an sbatch that answers 42."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "zh.bin").write_bytes(b"\1\0\2\0")
    (tmp_path / "zh.idx").write_bytes(index_header("uint16", 1) + struct.pack("<iqqq", 2, 0, 0, 1))
    sbatch_answers(tmp_path, "echo 42")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    return tmp_path


def sbatch_answers(folder: Path, body: str) -> None:
    program = folder / "programs" / "sbatch"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/asked\n{body}\n')
    program.chmod(0o755)


def queue(
    *overrides: str, dependency: str | None = None, dry_run: bool = False, test_alert: bool = False
) -> tuple[str | None, list[str]]:
    told: list[str] = []
    options = Options(run_dir=Path("run"), dependency=dependency, dry_run=dry_run, test_alert=test_alert)
    return launch(Path("config.yaml"), ("launch.nodes=2", *overrides), options, told.append, SOURCE / "slurm"), told


def test_the_run_is_queued_and_everything_about_it_is_kept(site: Path) -> None:
    job_id, told = queue("launch.partition=long", "run.seed=7", dependency="afterany:3")
    assert job_id == "42"
    assert told == [
        "queued job 42: 2 nodes, 16 ranks",
        f"run: {site / 'run'}",
        f"log: {site / 'run' / 'launches' / 'job_42.log'}",
    ]
    folder = site / "run" / "launches" / "0001"
    kept = json.loads((folder / "submission.json").read_text())
    assert kept["command"][1:] == (site / "asked").read_text().splitlines()
    assert (kept["job_id"], kept["nodes"], kept["workers_per_node"]) == ("42", 2, 8)
    assert "--dependency=afterany:3" in kept["command"]
    assert load_config(folder / "config.yaml") == load_config(
        site / "config.yaml", ("launch.nodes=2", "launch.partition=long", "run.seed=7")
    )
    assert not (site / "run" / "config.yaml").exists()  # another job of the run may be training with it


def test_the_source_is_kept_as_commit_and_difference(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc\n", "diff": "+changed\n"}
    monkeypatch.setattr(submission, "_git", lambda verb, *_: answers[verb])
    queue()
    folder = site / "run" / "launches" / "0001"
    git = json.loads((folder / "submission.json").read_text())["git"]
    assert git == {"source": str(SOURCE), "commit": "abc", "changed": True}
    assert (folder / "git.diff").read_text() == "+changed\n"
    assert (folder / "git.diff").stat().st_mode & 0o777 == 0o600  # it may hold a key


def test_outside_of_git_nothing_is_said_about_the_source(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "SOURCE", site)
    queue()
    folder = site / "run" / "launches" / "0001"
    assert json.loads((folder / "submission.json").read_text())["git"] is None


def test_a_dry_run_prints_what_was_checked_and_the_command_and_changes_nothing(site: Path) -> None:
    job_id, told = queue(dry_run=True)
    assert job_id is None
    checked, command = told
    assert checked.startswith("checked and found good:\n  layout: it fits the nodes")
    assert "  channels: files, sizes and index headers of all parts\n" in checked
    script, command = command.split("\n", 1)
    golden = (Path(__file__).parent / "dry_run.txt").read_text()
    shown = command.replace(str(site), "SITE").replace(sys.executable, "PYTHON").replace(str(SOURCE), "SOURCE")
    assert "\n".join(shlex.split(shown)) + "\n" == golden
    assert script == f"the job would be queued so, and run {SOURCE / 'slurm' / 'train.sbatch'}:"
    assert not (site / "run").exists()
    assert not (site / "asked").exists()


def test_every_mistake_is_told_at_once_and_nothing_is_queued(site: Path) -> None:
    (site / "zh.idx").unlink()
    with pytest.raises(ConfigError) as caught:
        queue("launch.sbatch_flags=[--array=0-3]")
    assert len(caught.value.problems) == 2
    assert not (site / "run").exists()
    assert not (site / "asked").exists()


def test_a_test_alert_comes_before_the_job(site: Path) -> None:
    program = site / "programs" / "tell"
    program.write_text(f"#!/bin/sh\ncat > {site}/message\n")
    program.chmod(0o755)
    job_id, told = queue('watch.alert_command=["tell"]', test_alert=True)
    assert job_id == "42" and told[0] == "delivered to tell (command) (from info on)"
    assert json.loads((site / "message").read_text())["kind"] == "test"
    (site / "asked").unlink()
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UsageError, match="1 of 1 places did not take the test message"):
        queue('watch.alert_command=["tell"]', test_alert=True)
    assert not (site / "asked").exists()


def test_the_number_of_nodes_must_be_said(site: Path) -> None:
    with pytest.raises(ConfigError, match=r"launch.nodes is not set; give --nodes N, or set it in the configuration"):
        queue("launch.nodes=null")


def test_a_refused_job_leaves_no_launch(site: Path) -> None:
    sbatch_answers(site, "echo 'sbatch: error: Invalid account' >&2; exit 1")
    with pytest.raises(UsageError, match="Slurm refused the job: error: Invalid account"):
        queue()
    assert list((site / "run" / "launches").iterdir()) == []


def test_without_the_batch_script_it_is_said_how_to_install(site: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*train.sbatch; install harness from its source tree"):
        launch(Path("config.yaml"), ("launch.nodes=2",), Options(run_dir=Path("run")), print, site)


def test_the_command_line_says_the_same_as_the_section(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--nodes", "2", "--gpus-per-node", "4", "--time", "30", "--partition", "long", "--account", "lm"]
    assert cli.run(["launch", "config.yaml", *arguments]) == 0
    assert "queued job 42: 2 nodes, 8 ranks" in capsys.readouterr().out
    settings = load_config(site / "runs" / "small" / "launches" / "0001" / "config.yaml").launch
    assert (settings.nodes, settings.gpus_per_node, settings.time_limit) == (2, 4, "30")
    assert (settings.partition, settings.account) == ("long", "lm")


def test_a_value_on_the_command_line_is_taken_as_it_is(site: Path) -> None:
    assert cli.run(["launch", "config.yaml", "--nodes", "2", "--partition", 'a"b', "--account", "c\\d"]) == 0
    settings = load_config(site / "runs" / "small" / "launches" / "0001" / "config.yaml").launch
    assert (settings.partition, settings.account) == ('a"b', "c\\d")


def test_preflight_looks_and_queues_nothing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["preflight", "config.yaml", "--nodes", "2", "--run-dir", "run"]) == 0
    assert capsys.readouterr().out == f"ready to launch: 2 nodes, 16 ranks, in {site / 'run'}\n"
    (site / "zh.idx").unlink()
    assert cli.run(["preflight", "config.yaml", "--nodes", "2"]) == 64
    assert "data.channels.zh: there is no zh/parts.jsonl" in capsys.readouterr().err
    assert not (site / "asked").exists()
