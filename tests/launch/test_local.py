"""`harness train` with small workers in place of the trainer."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from lock_holder import held_by_another

from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import ConfigError, RunInUseError
from harness.launch import local
from harness.launch.local import local_world_size, train
from harness.run.lock import owner_of
from harness.run.paths import RunDir

TINY = Path(__file__).parents[2] / "model_configs" / "tiny.yaml"
ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
ONE_COPY = ("parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1")

TELLS = """
import json, os, sys
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import RunLock
run = RunDir(Path(sys.argv[2]))
rank = os.environ["RANK"]
if rank == "0":
    RunLock(run).acquire()
told = {"arguments": sys.argv[1:], "environment": dict(os.environ), "config": run.config.read_text()}
(run.root / f"told-{rank}.json").write_text(json.dumps(told))
print("hello from rank", rank)
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without ranks on a machine without GPUs."""
    for name in (*ENVIRONMENT, "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "count_gpus", lambda: 0)
    monkeypatch.setattr(local, "count_cores", lambda: 8)


def worker(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", body)


def config(*overrides: str) -> Config:
    return load_config(TINY, overrides)


def test_workers_are_told_who_they_are_and_read_the_resolved_configuration(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ("run.seed=99", "optimizer.learning_rate=1e-4")
    assert train(TINY, tmp_path / "run", overrides, "must", worker(TELLS)) == 0
    run = RunDir(tmp_path / "run")
    told = [json.loads((run.root / f"told-{rank}.json").read_text()) for rank in range(4)]
    for rank, one in enumerate(told):
        config_file = str(run.launch(1) / "config.yaml")
        assert one["arguments"] == ["--run-dir", str(run.root), "--resume", "must", "--config", config_file]
        environment = {name: one["environment"][name] for name in ENVIRONMENT}
        port = environment.pop("MASTER_PORT")
        assert port.isdecimal()
        assert port == told[0]["environment"]["MASTER_PORT"]
        assert environment == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "2",
        }
        assert one["environment"]["PATH"] == os.environ["PATH"]
        assert one["config"] == run.config.read_text()
    assert load_config(run.config) == config(*overrides)
    assert capfd.readouterr().out == "hello from rank 0\n"
    (log,) = run.launch(1).glob("*.log")
    assert log.name == "node_0.log"
    assert sorted(log.read_text().splitlines()) == [f"hello from rank {rank}" for rank in (1, 2, 3)]
    labels = [
        json.loads(path.read_text())["environment"]["HARNESS_LOG_LABEL"]
        for path in sorted(run.root.glob("told-*.json"))
    ]
    assert labels == ["", "[rank 1] ", "[rank 2] ", "[rank 3] "]


def test_the_default_directory_is_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(TINY, None, ("run.name=mine", *ONE_COPY), "auto", worker("")) == 0
    assert (tmp_path / "runs" / "mine" / "config.yaml").is_file()


def test_the_exit_code_is_the_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(TINY, tmp_path, ONE_COPY, "auto", worker("raise SystemExit(75)")) == 75
    assert capfd.readouterr().err == f"{tmp_path}: starting 1 process on the CPU\n"
    assert train(TINY, tmp_path, ONE_COPY, "auto", worker("raise SystemExit(70)")) == 70
    assert capfd.readouterr().err.splitlines()[1:] == ["error: rank 0 left with exit code 70"]


def test_a_changed_configuration_is_announced_and_the_earlier_one_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    assert train(TINY, tmp_path, ONE_COPY, "auto", worker("")) == 0
    first = run.config.read_text()
    assert train(TINY, tmp_path, (*ONE_COPY, "logging.console_every_steps=7"), "auto", worker("")) == 0
    assert capfd.readouterr().err.splitlines()[1:-1] == [
        "the configuration differs from the previous launch:",
        "  logging.console_every_steps: 1, now 7",
    ]
    assert (run.launch(1) / "config.yaml").read_text() == first
    assert (run.launch(2) / "config.yaml").read_text() != first
    assert run.config.read_text() == first  # the trainer makes it the run's when it could begin


def test_where_somebody_trains_nothing_is_changed_and_nothing_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    with held_by_another(run) as pid, pytest.raises(RunInUseError, match=f"process {pid} on"):
        train(TINY, tmp_path, (), "auto", worker("raise SystemExit(70)"))
    assert not run.config.exists()
    assert list(run.launches.iterdir()) == []


def test_the_lock_is_held_while_workers_run_and_released_after(tmp_path: Path) -> None:
    body = """
import sys, subprocess
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import owner_of
sys.exit(0 if owner_of(RunDir(Path(sys.argv[2]))) else 70)
"""
    assert train(TINY, tmp_path, ONE_COPY, "auto", worker(body)) == 0
    assert owner_of(RunDir(tmp_path)) is None


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("parallel.tensor_model_parallel_size=3",), "tensor_model_parallel_size"),
        (("model.hiden_size=3",), "hiden_size"),
    ],
)
def test_a_wrong_configuration_starts_and_writes_nothing(tmp_path: Path, overrides: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        train(TINY, tmp_path / "run", overrides, "auto", worker("raise SystemExit(70)"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "num_gpus", "expected"),
    [
        ((), 0, 4),
        (("parallel.data_parallel_size=2",), 0, 8),
        ((), 4, 4),
        ((), 8, 8),
        (("parallel.data_parallel_size=1",), 8, 4),
        (ONE_COPY, 1, 1),
        (ONE_COPY, 0, 1),
    ],
)
def test_as_many_workers_as_the_layout_needs_or_gpus_there_are(
    overrides: tuple[str, ...], num_gpus: int, expected: int
) -> None:
    assert local_world_size(config(*overrides), num_gpus) == expected


def test_a_layout_that_needs_more_gpus_than_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        local_world_size(config("parallel.data_parallel_size=2"), 4)
    assert caught.value.problems == [
        "parallel: the layout needs 8 GPUs, this machine offers 4; choose smaller parallel sizes, or start it on "
        "several nodes with torchrun or srun"
    ]


class Trainer(types.ModuleType):
    """Stands in for the trainer's module."""

    def __init__(self) -> None:
        super().__init__("trainer")
        self.calls: list[tuple[Config, RunDir, str]] = []
        self.locked = False

    def main(self, config: Config, run_dir: RunDir, resume: str) -> int:
        self.calls.append((config, run_dir, resume))
        self.locked = owner_of(run_dir) is not None
        return 75


@pytest.mark.parametrize("rank", [0, 3])
def test_under_torchrun_this_process_is_the_worker_and_rank_0_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    trainer = Trainer()
    monkeypatch.setitem(sys.modules, "harness.train.main", trainer)
    given = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 4, "MASTER_PORT": 1234}
    for name, value in (*given.items(), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, str(value))
    assert train(TINY, tmp_path / "run", ("run.seed=5",), "never", worker("raise SystemExit(70)")) == 75
    run = RunDir(tmp_path / "run")
    assert trainer.calls == [(config("run.seed=5"), run, "never")]
    assert trainer.locked == run.config.exists() == (rank == 0)
    assert owner_of(run) is None


def test_under_torchrun_with_a_world_that_does_not_fit_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="world size 3"):
        train(TINY, tmp_path / "run", (), "auto")
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert train(TINY, tmp_path, ONE_COPY, "auto", worker("")) == 0
    assert capfd.readouterr().err.splitlines()[0] == (
        f"warning: the file system of {tmp_path} has no locks (Function not implemented): "
        "make sure that nobody else trains there"
    )
