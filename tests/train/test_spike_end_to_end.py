"""Real processes: `harness train` meets garbled documents, `harness watch` finds them and rolls the run back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from learnt_site import BATCH, Documents, chain, learnt_site, noise, train_and_watch
from process_runs import Site

from harness.run import metric_names as names
from harness.run.paths import RunDir

ONSET = 121
POISONED_STEPS = 60
TRAIN_STEPS = 260


def poisoned_site(root: Path, *, again_after: int | None = None) -> Site:
    """A run whose channel `code` has a part of random tokens from step `ONSET` on, and maybe another one later."""
    stretches: list[tuple[Documents, int]] = [(chain, ONSET - 1), (noise, POISONED_STEPS)]
    if again_after is not None:
        stretches += [(chain, again_after), (noise, POISONED_STEPS)]
    return learnt_site(root, stretches, train_steps=TRAIN_STEPS)


def alerts(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.run_dir.watch / "alerts.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_garbled_documents_are_found_named_and_skipped(tmp_path: Path) -> None:
    site = poisoned_site(tmp_path)
    (code, output), (watch_code, watch_output) = train_and_watch(site)
    assert code == 0, output
    assert watch_code == 0, watch_output
    assert "training has ended" in watch_output

    spikes = [event for event in site.events("spike") if event["channel"] == "code"]
    assert spikes[0]["direction"] == "up"
    assert ONSET - 2 <= spikes[0]["start"] <= ONSET + 2  # some documents of the first part are held out
    attributed = [event for event in site.events("attributed") if event["dirty"]]
    assert attributed, site.events("attributed")
    assert {(found["channel"], found["part"]) for found in attributed[0]["documents"]} == {("code", "part-00001")}
    assert "is usual" in attributed[0]["reason"]

    (rolled_back,) = site.events("rollback")
    assert rolled_back["step"] == 100
    (window,) = rolled_back["skip_windows"]
    assert window[0] <= (ONSET - 1) * BATCH
    assert window[1] >= (ONSET - 1 + POISONED_STEPS) * BATCH
    assert [record.step for record in site.records()] == list(range(1, TRAIN_STEPS + 1))

    told = RunDir(tmp_path / "told")
    site.config["data"]["skip_windows"] = [window]
    told_code, told_output = site.train(run_dir=told.root).finish()
    assert told_code == 0, told_output
    assert site.losses() == site.losses(told)
    last = [record.values[names.lm_loss_of("code")] for record in site.records()[-20:]]
    assert max(last) < 2.0


@pytest.mark.slow
def test_when_the_budget_is_used_up_a_person_must_look(tmp_path: Path) -> None:
    site = poisoned_site(tmp_path, again_after=100)
    site.config["watch"]["max_rollbacks"] = 1
    (code, output), (watch_code, watch_output) = train_and_watch(site)
    assert code == 76, output
    assert "the budget of 1 rollbacks in 10000 steps is used up" in output
    assert watch_code == 0, watch_output
    assert len(site.events("rollback")) == 1
    (stop,) = site.events("stop-ordered")
    assert "the budget of 1 rollbacks in 10000 steps is used up" in stop["reason"]
    report = (site.run_dir.watch / "report.md").read_text()
    assert str(site.run_dir.watch / "report.md") in output
    assert "Evidence points to documents: take them out of the channel" in report
    assert "look like dirt (a loss of " in report
    texts = [alert["text"] for alert in alerts(site)]
    assert any("gave the command to stop; a person must look" in text for text in texts)
    assert any(text.startswith("the run has ended, and does not come back by itself: ") for text in texts)
