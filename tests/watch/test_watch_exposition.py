"""The numbers for Prometheus: what they are called, and that they are served to this machine only."""

from __future__ import annotations

import math
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from stand_in import StandIn, run_dir_in, watcher

from harness import cli
from harness.errors import UsageError
from harness.run.records import StepRecord
from harness.watch import daemon, exposition
from harness.watch.exposition import Address, Latest, gauges, served
from harness.watch.verdict import OpenEpisode

RECORD = StepRecord(
    attempt=1,
    step=12,
    time=1700000000.5,
    phase="main",
    consumed_samples=96,
    consumed_tokens=1536,
    batch_hash=1,
    values={"train/lm_loss": 2.5, "train/lm_loss/zh": math.nan, "optim/grad_norm": 0.5, "valid/lm_loss/c++ 2": 3.0},
)
EPISODE = OpenEpisode(channel="zh", direction="up", confirmed=True, start=1, end=2, peak_z=9.0, recent_z=8.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_names_and_labels() -> None:
    found = gauges(Latest(run="r", record=RECORD, episodes=(EPISODE,), num_rollbacks=2))
    run = ("run", "r")
    assert found["harness_step"] == {(run,): 12}
    assert found["harness_optim_grad_norm"] == {(run,): 0.5}
    assert found["harness_rollbacks"] == {(run,): 2.0}
    assert found["harness_train_lm_loss"][run, ("channel", "total")] == 2.5
    assert math.isnan(found["harness_train_lm_loss"][run, ("channel", "zh")])
    assert found["harness_valid_lm_loss"] == {(run, ("channel", "c++ 2")): 3.0}
    assert found["harness_episode_recent_z"] == {(run, ("channel", "zh"), ("direction", "up")): 8.0}


def test_runs_of_one_configuration_differ_in_their_directory() -> None:
    one, other = (gauges(Latest(run="r", directory=f"/runs/{name}", record=RECORD)) for name in ("a", "b"))
    assert one["harness_step"] == {(("run", "r"), ("directory", "/runs/a")): 12}
    assert one["harness_step"].keys().isdisjoint(other["harness_step"])


def test_nothing_is_known_at_first() -> None:
    assert set(gauges(Latest(run="r"))) == {"harness_training", "harness_rollbacks", "harness_open_episodes"}


def test_served_while_the_block_lasts_and_always_the_latest() -> None:
    latest, port = Latest(run='a"b'), free_port()
    with served(latest, Address(port)):
        assert 'harness_training{run="a\\"b"} 1.0' in fetched(port)
        latest.record = RECORD
        assert 'harness_train_lm_loss{channel="zh",run="a\\"b"} NaN' in fetched(port)
        with pytest.raises(
            UsageError, match=f"--metrics-port {port}: cannot listen on 127.0.0.1: Address already in use"
        ):
            served(latest, Address(port)).__enter__()
    with pytest.raises(OSError, match="refused"):
        fetched(port)


def test_by_default_only_this_machine_can_ask() -> None:
    assert Address(1).host == exposition.LOOPBACK == "127.0.0.1"


def test_the_watcher_of_a_job_is_told_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(daemon, "watch", lambda run_dir, **settings: asked.update(settings))
    monkeypatch.setenv("HARNESS_METRICS_PORT", "9400")
    monkeypatch.setenv("HARNESS_METRICS_HOST", "0.0.0.0")  # noqa: S104 (what is asked for here)
    assert cli.run(["watch", str(tmp_path)]) == 0
    assert asked["metrics_at"] == Address(9400, "0.0.0.0")  # noqa: S104
    monkeypatch.setenv("HARNESS_METRICS_PORT", "99999")
    assert cli.run(["watch", str(tmp_path)]) == 64


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(exposition, "import_module", missing)
    with pytest.raises(UsageError, match="needs the package prometheus-client, which is not installed"):
        served(Latest(run="r"), Address(1)).__enter__()
    with served(Latest(run="r"), None):
        pass


def test_the_watcher_keeps_it_up_to_date(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    watching = watcher(run)
    run.train(5)
    watching.look()
    assert watching.latest.record is not None
    assert watching.latest.record.step == 5
    assert watching.latest.is_training
    run.event("exit", exit_code=0, reason="done")
    watching.look()
    assert not watching.latest.is_training
