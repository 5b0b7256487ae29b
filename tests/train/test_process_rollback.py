"""A rollback in the running job, one by a restart, and a run that was told from the start are the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from process_runs import Site

from harness.run.commands.kinds import CommandKind

LAST_STEP = 12
SKIPPED_SAMPLES = [16, 24]
"""Of steps 5 and 6, of four samples each."""


def site_in(root: Path) -> Site:
    root.mkdir()
    site = Site(root)
    site.config["checkpoint"] = {"save_every_steps": 4}
    return site


def line(site: Site) -> dict[int, tuple[float, float, int]]:
    return {
        record.step: (record.values["train/lm_loss"], record.values["optim/grad_norm"], record.batch_hash)
        for record in site.records()
        if record.step <= LAST_STEP
    }


def stop_at(step: int) -> tuple[str, str]:
    return "--set", f"run.stop_at_step={step}"


@pytest.mark.slow
def test_a_rollback_is_the_same_in_the_running_job_by_a_restart_and_from_the_start(tmp_path: Path) -> None:
    told, restarted, running = (site_in(tmp_path / name) for name in ("told", "restarted", "running"))
    told.config["data"]["skip_windows"] = [SKIPPED_SAMPLES]
    code, text = told.train(*stop_at(LAST_STEP)).finish()
    assert code == 0, text

    code, text = restarted.train(*stop_at(8)).finish()
    assert code == 0, text
    code, text = restarted.train("--rollback-to", "4", "--skip-steps", "5:6", *stop_at(LAST_STEP)).finish()
    assert code == 0, text
    in_all = "in all, the run skips 8 samples at step 5 (16 to 23 of the order)"
    assert f"; skipping the samples of steps 5 to 6; {in_all}" in text
    assert [event["skip_steps"] for event in restarted.events("rollback")] == [[5, 6]]

    with running.train() as command:
        command.wait_until(lambda: running.last_step() >= 9)
        back = {"kind": CommandKind.ROLLBACK, "to_step": 4, "skip_steps": [5, 6], "reason": "garbled"}
        (running.run_dir.signals / "back.json").write_text(json.dumps(back))
        command.wait_until(lambda: any(r.attempt == 1 and r.step >= LAST_STEP for r in running.records()))

    assert sorted(line(told)) == list(range(1, LAST_STEP + 1))
    assert line(restarted) == line(running) == line(told)
    assert len(running.events("started")) == 1
    assert running.events("resumed") == []
