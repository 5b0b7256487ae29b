"""The numbers for Prometheus: what they are called, and that they are served to this machine only."""

from __future__ import annotations

import math
import re
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port
from stand_in import StandIn, keep, run_dir_in, watcher

from harness import cli
from harness.errors import UsageError
from harness.run.records import StepRecord, to_json_line
from harness.watch import daemon, exposition
from harness.watch.exposition import Address, Latest, gauges, served
from harness.watch.last_values import recalled, with_record
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


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_names_and_labels() -> None:
    found = gauges(Latest(run="r", last=with_record(None, RECORD), episodes=(EPISODE,), num_rollbacks=2))
    run = ("run", "r")
    assert found["harness_step"] == {(run,): 12}
    assert found["harness_optim_grad_norm"] == {(run,): 0.5}
    assert found["harness_rollbacks"] == {(run,): 2.0}
    assert found["harness_train_lm_loss"][run, ("channel", "total")] == 2.5
    assert math.isnan(found["harness_train_lm_loss"][run, ("channel", "zh")])
    assert found["harness_valid_lm_loss"] == {(run, ("channel", "c++ 2")): 3.0}
    assert found["harness_evaluation_step"] == {(run,): 12}
    assert "harness_save_step" not in found
    assert found["harness_episode_recent_z"] == {(run, ("channel", "zh"), ("direction", "up")): 8.0}


@pytest.mark.parametrize(
    ("name", "served_name", "labels"),
    [
        ("train/lm_loss", "harness_train_lm_loss", {"channel": "total"}),
        ("train/lm_loss/c++.2", "harness_train_lm_loss", {"channel": "c++.2"}),
        ("train/mtp_loss/1", "harness_train_mtp_loss", {"module": "1"}),
        ("train/tokens/zh", "harness_train_tokens", {"channel": "zh"}),
        ("data/epochs/zh", "harness_data_epochs", {"channel": "zh"}),
        ("valid/lm_loss/zh", "harness_valid_lm_loss", {"channel": "zh"}),
        ("valid/bits_per_byte/zh", "harness_valid_bits_per_byte", {"channel": "zh"}),
        ("valid/position_loss/zh/16", "harness_valid_position_loss", {"channel": "zh", "position": "16"}),
        ("valid/needle_loss/50", "harness_valid_needle_loss", {"depth": "50"}),
        ("optim/grad_norm", "harness_optim_grad_norm", {}),
        ("mine/of/zh", "harness_mine_of", {"channel": "zh"}),
    ],
)
def test_what_stands_behind_a_name_is_a_label_of_its_kind(name: str, served_name: str, labels: dict[str, str]) -> None:
    last = with_record(None, replace(RECORD, values={name: 1.0}))
    assert gauges(Latest(run="r", last=last))[served_name] == {(("run", "r"), *labels.items()): 1.0}


def recorded(path: Path, step: int, attempt: int = 0, phase: str = "main", **values: float) -> StepRecord:
    """Append a record with `train/lm_loss/zh` = its step and these held-out losses and counts."""
    record = replace(
        RECORD,
        step=step,
        attempt=attempt,
        phase=phase,
        values={"train/lm_loss": float(step), **{name.replace("__", "/"): value for name, value in values.items()}},
    )
    with path.open("a") as file:
        file.write(to_json_line(record))
    return record


def test_rare_metrics_keep_their_last_value_and_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert recalled(path) is None
    known = None
    for record in (
        recorded(path, 1, valid__lm_loss__zh=4.0, perf__failed_saves=1.0),
        recorded(path, 2, valid__lm_loss__zh=3.0),
        recorded(path, 3),
    ):
        known = with_record(known, record)
    assert known == recalled(path)
    assert known is not None
    assert {name: (seen.value, seen.step) for name, seen in known.metrics.items()} == {
        "train/lm_loss": (3.0, 3),
        "valid/lm_loss/zh": (3.0, 2),
    }
    served_now = gauges(Latest(run="r", last=known))
    assert served_now["harness_evaluation_step"] == {(("run", "r"),): 2}
    assert served_now["harness_valid_lm_loss"] == {(("run", "r"), ("channel", "zh")): 3.0}


def test_a_rollback_brings_back_the_values_of_before(tmp_path: Path) -> None:
    run_dir = run_dir_in(tmp_path)
    run_dir.make_folders()
    first = recorded(run_dir.metrics, 10, valid__lm_loss__zh=4.0)
    second = recorded(run_dir.metrics, 20, valid__lm_loss__zh=9.0, perf__save_s=5.0)
    latest = Latest(run="r", directory=str(run_dir.root))
    with served(latest, Address(free_port())):
        assert latest.last is not None
        assert latest.last.metrics["valid/lm_loss/zh"].value == 9.0
        latest.observe(first)
        latest.observe(second)
        assert latest.last.record == second, "known ones are not taken again"
        latest.observe(recorded(run_dir.metrics, 15, attempt=1))
        assert latest.last.metrics["valid/lm_loss/zh"].value == 4.0
        assert "perf/save_s" not in latest.last.metrics
        latest.observe(replace(second, step=21))
        assert latest.last.record.step == 15, "an abandoned attempt says no more"


def test_losses_in_training_end_with_their_phase(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    known = with_record(None, recorded(path, 1, train__lm_loss__zh=4.0, valid__lm_loss__zh=4.0))
    known = with_record(known, recorded(path, 2, phase="next"))
    assert known == recalled(path)
    assert set(known.metrics) == {"train/lm_loss", "valid/lm_loss/zh"}


def test_memory_of_the_past_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorded(path, 1, valid__lm_loss__zh=4.0)
    for step in range(2, 12):
        recorded(path, step)
    found = [recalled(path, most_lines) for most_lines in (11, 12)]
    assert [each is not None and "valid/lm_loss/zh" in each.metrics for each in found] == [False, True]


def test_a_file_that_cannot_be_read_is_no_memory(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    assert recalled(tmp_path / "metrics.jsonl") is None
    (tmp_path / "damaged.jsonl").write_text("{}\nnull\n\x00\n{")
    assert recalled(tmp_path / "damaged.jsonl") is None


def test_a_watcher_that_begins_again_knows_what_it_had_read_before(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    recorded(run.run_dir.metrics, 1, valid__lm_loss__zh=4.0)
    run.step = 1
    run.train(5)
    before = watcher(run)
    before.look()
    keep(run, before)
    again, port = watcher(run), free_port()
    with served(again.latest, Address(port)):
        again.look()
        text = fetched(port)
    assert re.search(r'harness_valid_lm_loss\{channel="zh",directory="[^"]+",run="stand-in"\} 4\.0', text)
    assert re.search(r"harness_evaluation_step\{.*\} 1\.0", text)
    assert re.search(r"harness_step\{.*\} 6\.0", text)
    assert re.search(r"harness_train_steps\{.*\} 2000\.0", text)


def test_runs_of_one_configuration_differ_in_their_directory() -> None:
    one, other = (
        gauges(Latest(run="r", directory=f"/runs/{name}", last=with_record(None, RECORD))) for name in ("a", "b")
    )
    assert one["harness_step"] == {(("run", "r"), ("directory", "/runs/a")): 12}
    assert one["harness_step"].keys().isdisjoint(other["harness_step"])


def test_nothing_is_known_at_first() -> None:
    assert set(gauges(Latest(run="r"))) == {"harness_training", "harness_rollbacks", "harness_open_episodes"}


def test_served_while_the_block_lasts_and_always_the_latest() -> None:
    latest, port = Latest(run='a"b'), free_port()
    with served(latest, Address(port)):
        assert 'harness_training{run="a\\"b"} 1.0' in fetched(port)
        latest.observe(RECORD)
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
