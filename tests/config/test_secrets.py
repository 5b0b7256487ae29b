"""Tokens in the command that gets alerts: in no message, and in no file that others can read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from harness import cli
from harness.config.load import load_config
from harness.config.secrets import HIDDEN, masked_arguments
from harness.run.launch_folder import accept, changes, open_launch
from harness.run.launches import LaunchStart
from harness.run.paths import RunDir

SECRET = "xoxb-7f3a9c"
CONFIG = """\
run: {name: small}
model: {num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}
data: {channels: {zh: {path: zh}}}
phases: [{name: main, train_steps: 10, seq_length: 32, global_batch_size: 8, blend: {zh: 1}}]
optimizer: {learning_rate: 3e-4}
"""
COMMAND = f"watch: {{alert_command: [curl, -H, 'Authorization: Bearer {SECRET}']}}\n"


def files_of(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_files_of_a_run_that_hold_a_token_are_their_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG + COMMAND)
    config, run_dir = load_config(tmp_path / "a.yaml"), RunDir(tmp_path / "run")
    override = f"watch.alert_command=[curl, {SECRET}]"
    monkeypatch.setattr(
        sys, "argv", ["harness", "train", "a.yaml", "--set", override, "--alert-url", f"slack://{SECRET}"]
    )
    before = os.umask(0o022)
    try:
        run_dir.make_folders()
        launch = open_launch(run_dir, config, LaunchStart())
        accept(run_dir, config)
    finally:
        os.umask(before)
    holding = [path for path in files_of(run_dir.root) if SECRET in path.read_text(errors="replace")]
    assert sorted(holding) == sorted([run_dir.config, launch / "config.yaml"])
    assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}
    assert load_config(run_dir.config) == config
    command = json.loads((launch / "launch.json").read_text())["command"]
    assert command[3:] == ["--set", f"watch.alert_command={HIDDEN}", "--alert-url", HIDDEN]
    other = yaml.safe_load(CONFIG) | {"watch": {"alert_command": ["curl", "another"]}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(other))
    told = "\n".join(changes(run_dir, load_config(tmp_path / "b.yaml")))
    assert f"watch.alert_command.1: {HIDDEN}, now {HIDDEN}" in told
    assert SECRET not in told


def test_a_run_without_secrets_is_readable_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    run_dir = RunDir(tmp_path / "run")
    before = os.umask(0o022)
    try:
        run_dir.make_folders()
        open_launch(run_dir, load_config(tmp_path / "a.yaml"), LaunchStart())
    finally:
        os.umask(before)
    assert run_dir.config.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "override",
    [
        f"watch.alert_command={SECRET}",
        f"watch.alert_command=[{SECRET}",
        f"watch.alert_command={{{SECRET}: 1}}",
        f"watch.alert_command.7={SECRET}",
        f"watch={{alert_command: {SECRET}}}",
        f"watch.alert_command=!!python/object:{SECRET}.x [1]",
    ],
)
def test_errors_about_the_command_do_not_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    assert cli.run(["plan", str(tmp_path / "a.yaml"), "--set", override]) == 64
    told = capsys.readouterr().err
    assert "alert_command" in told
    assert SECRET not in told


def test_errors_in_the_file_do_not_show_it_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(f"{CONFIG}watch: {{alert_command: 'curl {SECRET}'}}\n")
    assert cli.run(["plan", str(tmp_path / "a.yaml")]) == 64
    told = capsys.readouterr().err
    assert "watch.alert_command: must be a list" in told
    assert SECRET not in told


def test_arguments_are_masked_in_every_spelling() -> None:
    given = ["harness", "watch", "--alert-url=a://b", "--set=watch.alert_command=[x]", "--set", "run.seed=1", "--set"]
    masked = [f"--alert-url={HIDDEN}", f"--set=watch.alert_command={HIDDEN}"]
    assert masked_arguments(given) == ("harness", "watch", *masked, "--set", "run.seed=1", "--set")
