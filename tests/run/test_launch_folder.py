from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import UsageError
from harness.run.launch_folder import accept, changes, make_run, open_launch
from harness.run.launches import LaunchStart
from harness.run.paths import RunDir

TINY = Path(__file__).parents[2] / "model_configs" / "tiny.yaml"


def test_every_launch_keeps_its_configuration_and_the_newest_is_the_runs(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    make_run(run)
    first, second = load_config(TINY), load_config(TINY, ["parallel.tensor_model_parallel_size=1"])
    assert changes(run, first) == []
    assert open_launch(run, first, LaunchStart(world_size=4)) == run.launch(1)
    assert load_config(run.config) == first
    assert changes(run, first) == []
    assert changes(run, second) == ["parallel.tensor_model_parallel_size: 2, now 1"]
    assert open_launch(run, second, LaunchStart(world_size=2)) == run.launch(2)
    assert load_config(run.config) == first
    accept(run, second)
    assert load_config(run.config) == second
    assert load_config(run.launch(1) / "config.yaml") == first
    assert load_config(run.launch(2) / "config.yaml") == second
    facts = json.loads((run.launch(2) / "launch.json").read_text())
    assert facts["world_size"] == 2
    assert facts["working_directory"] == str(Path.cwd())
    assert not list(run.root.glob("*.partial"))


def test_an_unreadable_earlier_configuration_is_replaced(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    make_run(run)
    run.config.write_text("a: [")
    config = load_config(TINY)
    assert changes(run, config) == []
    open_launch(run, config, LaunchStart())
    accept(run, config)
    assert load_config(run.config) == config


def test_a_run_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot make the run directory .*file/run: Not a directory .*--run-dir"):
        make_run(RunDir(tmp_path / "file" / "run"))


def test_added_and_removed_fields_are_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    make_run(run)
    open_launch(run, load_config(TINY), LaunchStart())
    fewer = load_config(TINY).model_dump(mode="json")
    del fewer["phases"][0]["blend"]["code"]
    assert changes(run, Config.model_validate(fewer)) == ["phases.0.blend.code: 2.0, now absent"]


def test_a_disk_that_takes_nothing_is_a_clear_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    make_run(run)
    run.launches.rmdir()
    run.launches.touch()
    text = (
        rf"cannot write to the run directory {tmp_path}: Not a directory. Nothing was started; make room there, or .*"
    )
    with pytest.raises(UsageError, match=text):
        open_launch(run, load_config(TINY), LaunchStart())
