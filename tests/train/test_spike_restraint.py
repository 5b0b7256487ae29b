"""Real processes: a harmless spike is left alone; a wrong learning rate ends with 76 and a report, not in a loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from learnt_site import Documents, chain, learnt_site, noise, train_and_watch

from harness.run.paths import RunDir

ONSET = 121


@pytest.mark.slow
def test_a_spike_of_one_step_is_left_alone(tmp_path: Path) -> None:
    stretches: list[tuple[Documents, int]] = [(chain, ONSET - 1), (noise, 1)]
    site = learnt_site(tmp_path, stretches, train_steps=170)
    (code, output), (watch_code, watch_output) = train_and_watch(site)
    assert code == 0, output
    assert watch_code == 0, watch_output
    alarms = [event for event in site.events("suspect") if event["channel"] == "code"]
    assert [(alarm["direction"], abs(alarm["start"] - ONSET) <= 2) for alarm in alarms] == [("up", True)]
    assert [event["start"] for event in site.events("benign") if event["channel"] == "code"] == [alarms[0]["start"]]
    assert site.events("rollback") == site.events("rollback-ordered") == site.events("stop-ordered") == []

    unwatched = RunDir(tmp_path / "unwatched")
    unwatched_code, unwatched_output = site.train(run_dir=unwatched.root).finish()
    assert unwatched_code == 0, unwatched_output
    assert site.losses() == site.losses(unwatched)


@pytest.mark.slow
def test_a_wrong_learning_rate_ends_with_76_and_a_report(tmp_path: Path) -> None:
    site = learnt_site(tmp_path, [], train_steps=2000)
    site.config["checkpoint"] = {"save_every_steps": 20}
    site.config["watch"] |= {"verify_steps": 40, "max_rollbacks": 2, "skip_steps": 5, "skip_lead_steps": 0}
    code, output = site.train("--set", "run.stop_at_step=120").finish()
    assert code == 0, output

    (code, output), (watch_code, watch_output) = train_and_watch(
        site, *("--set", "optimizer.learning_rate=2.0"), *("--set", "phases.0.schedule.changed_after_step=120")
    )
    assert code == 76, output
    assert watch_code == 0, watch_output
    assert len(site.events("rollback")) == 2
    assert site.last_step() < 1000
    assert "the budget of 2 rollbacks in 10000 steps is used up" in output
    report = (site.run_dir.watch / "report.md").read_text()
    assert "suspect the learning rate" in report
    assert "## What can be returned to" in report
    assert f"harness train {site.run_dir.root}/config.yaml --run-dir {site.run_dir.root} --rollback-to " in report
