"""The dashboard and the rules of docs/monitoring: asked of a real Prometheus that scrapes a real watcher."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from free_port import free_port
from stand_in import ONSET, StandIn, keep, run_dir_in, watcher

from harness.run import metric_names as names
from harness.run.records import StepRecord
from harness.watch.exposition import Latest, gauges
from harness.watch.last_values import LastValues, with_record
from harness.watch.verdict import OpenEpisode

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring"
DASHBOARD = MONITORING / "grafana_dashboard.json"
RULES = MONITORING / "alert_rules.yml"
UNIT_TESTS = Path(__file__).with_name("alert_rules_test.yml")
MISSING = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]
needs_prometheus = pytest.mark.skipif(
    bool(MISSING), reason=f"not on this machine: {', '.join(MISSING)}; `make monitoring-deps` installs it"
)
METRIC = re.compile(r"\bharness_\w+")


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    assert len(found) > 10
    return list(found)


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def every_metric() -> dict[str, float]:
    """A value of every metric that a record can have."""
    constants = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    of_channels = [
        make("zh")
        for make in (
            names.lm_loss_of,
            names.tokens_of,
            names.epochs_of,
            names.valid_lm_loss_of,
            names.valid_bits_per_byte_of,
        )
    ]
    others = [names.mtp_loss_of(1), names.valid_position_loss_of("zh", 16), names.valid_needle_loss_of(50)]
    in_records_only = {names.BATCH_HASH, names.EXPERTS_BY_LAYER}
    return {name: 1.0 for name in [*constants, *of_channels, *others] if name not in in_records_only}


def full_record(step: int = 1) -> StepRecord:
    return StepRecord(
        attempt=0,
        step=step,
        time=1.0,
        phase="main",
        consumed_samples=8,
        consumed_tokens=128,
        batch_hash=1,
        values=every_metric(),
    )


def served_names() -> set[str]:
    episode = OpenEpisode(channel="zh", direction="up", confirmed=True, start=1, end=2, peak_z=9.0, recent_z=8.0)
    last: LastValues = with_record(None, full_record())
    return set(gauges(Latest(run="r", directory="/d", train_steps=9, last=last, episodes=(episode,))))


def test_every_metric_that_is_shown_or_judged_is_served() -> None:
    named = {name for text in dashboard_expressions() for name in METRIC.findall(text)}
    judged = {name for rule in rules() for name in METRIC.findall(rule["expr"])}
    assert len(named) > 15
    assert named | judged <= served_names()


def test_the_page_names_only_metrics_that_are_served() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert set(METRIC.findall(page)) <= served_names()


def test_every_rule_is_in_the_unit_tests_as_quiet_and_as_firing() -> None:
    cases = [case for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    for rule in rules():
        of_rule = [case for case in cases if case["alertname"] == rule["alert"]]
        assert any("exp_alerts" in case for case in of_rule), f"{rule['alert']} fires"
        assert rule["expr"] == "vector(1)" or any("exp_alerts" not in case for case in of_rule), (
            f"{rule['alert']} rests"
        )


def test_panels_do_not_overlap_and_have_units() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not own & taken, panel["title"]
        assert max(x for x, _ in own) < 24, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        taken |= own


@needs_prometheus
def test_promtool_takes_the_rules_and_their_unit_tests() -> None:
    for arguments in (("check", "rules", str(RULES)), ("test", "rules", str(UNIT_TESTS))):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


@dataclass
class FullStandIn(StandIn):
    """A stand-in that records every metric once, and of the others only what each step has."""

    full_at: int = 0

    def record(self) -> StepRecord:
        found = replace(super().record(), time=time.time())
        return replace(found, values={**every_metric(), **found.values}) if self.step == self.full_at else found


def ask(port: int, path: str, **parameters: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    assert found["status"] == "success", found
    return found


@contextmanager
def started(*command: str) -> Iterator[None]:
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def prometheus(folder: Path, targets: list[int]) -> Iterator[int]:
    """Start a Prometheus that scrapes these ports every second and has our rules; yield its port."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "harness", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    files = f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"
    with started("prometheus", *files, f"--web.listen-address=127.0.0.1:{port}"):
        yield port


def results(port: int, expression: str, wanted: int, patience_s: float = 90) -> list[dict[str, Any]]:
    """The series of an expression, waited for until there are as many as wanted."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            found = ask(port, "query", query=expression)["data"]["result"]
        except OSError:
            found = []
        if len(found) >= wanted:
            break
        time.sleep(0.3)
    return found


@needs_prometheus
@pytest.mark.slow
def test_a_real_prometheus_has_data_for_every_panel_and_takes_every_rule(tmp_path: Path) -> None:
    """Two runs of one configuration, each with its watcher, which begins behind the only evaluation."""
    ports, runs = [free_port(), free_port()], []
    for name in ("a", "b"):
        run = FullStandIn(run_dir_in(tmp_path / name), range(ONSET, ONSET + 60), changes={"poll_s": 0.2})
        run.full_at = 100
        run.train(ONSET + 5)
        watching = watcher(run, may_command=False)
        watching.look()
        keep(run, watching)  # the next watcher has no new line to read
        runs.append(run)
    harness = (sys.executable, "-m", "harness.cli", "watch", "--no-orders", "--metrics-port")
    with (
        started(*harness, str(ports[0]), str(runs[0].run_dir.root)),
        started(*harness, str(ports[1]), str(runs[1].run_dir.root)),
        prometheus(tmp_path, ports) as port,
    ):
        assert len(results(port, "harness_open_episodes > 0", 2)) == 2
        for expression in dashboard_expressions():
            if "failed_saves" in expression:  # absent if the last record counts none
                assert results(port, substituted(expression), 1, 0.5) == []
                continue
            found = results(port, substituted(expression), 2, 15)
            assert {each["metric"]["directory"] for each in found} == {str(run.run_dir.root) for run in runs}, (
                expression
            )
        assert {each["value"][1] for each in results(port, "harness_evaluation_step", 2)} == {"100"}
        check_rules(port)
        check_variables(port)


def substituted(expression: str) -> str:
    """An expression as Grafana asks it when all runs are chosen."""
    return expression.replace("$run", ".*").replace("$directory", ".*")


def check_rules(port: int) -> None:
    """Every rule is loaded and evaluated without an error, and those that should fire do."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        loaded = {rule["name"]: rule for group in ask(port, "rules")["data"]["groups"] for rule in group["rules"]}
        is_seen = loaded["HarnessEpisodeOpen"]["state"] != "inactive"
        if is_seen and all(rule["health"] == "ok" for rule in loaded.values()):
            break
        time.sleep(0.3)
    assert set(loaded) == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in loaded.values()} == {"ok"}, loaded
    assert loaded["HarnessDeadMansSwitch"]["state"] == "firing"
    assert loaded["HarnessEpisodeOpen"]["state"] == "pending"
    assert loaded["HarnessRecordsNothing"]["state"] == "inactive"


def check_variables(port: int) -> None:
    """What Grafana lists to choose from has values."""
    asked = [each for each in json.loads(DASHBOARD.read_text())["templating"]["list"] if each["type"] == "query"]
    for variable in asked:
        selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").split(", ")
        found = ask(port, "series", **{"match[]": substituted(selector)})["data"]
        assert {each[label] for each in found}, variable
