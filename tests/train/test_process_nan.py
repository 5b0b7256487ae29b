"""A step that is not finite, made by a learning rate that overflows the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from process_runs import Site

from harness.run.evidence import read_evidence

pytestmark = pytest.mark.slow


def test_a_step_that_is_not_finite_is_not_applied_and_told_with_its_samples(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config["checkpoint"] = {"save_every_steps": 2}
    site.config["evaluation"] = {"every_steps": 2, "num_samples_per_channel": 2, "held_out_share": 0.2}
    site.config["parallel"] = {"pipeline_model_parallel_size": 2}
    code, text = site.train("--set", "run.stop_at_step=3").finish()
    assert code == 0, text
    good = site.losses()

    # Step 4 multiplies the weights by so much that step 5 cannot be computed. It would be saved, and so would step 6.
    changed = (
        "optimizer.learning_rate=1e15",
        "phases.0.schedule.changed_after_step=3",
        "checkpoint.save_every_steps=5",
    )
    code, text = site.train(*(word for each in changed for word in ("--set", each))).finish()
    assert code == 76, text
    assert "Traceback" not in text
    assert f"optimizer.learning_rate: 0.01, now {1e15}" in text
    bad = max(site.losses())
    evidence = site.run_dir.evidence(bad)
    assert f"error: step {bad} is not finite: loss nan" in text
    assert "ranks [1]" in text
    assert f"It was not applied and nothing was saved. The samples are in {evidence}; the checkpoint" in text
    assert f"the checkpoint {site.run_dir.checkpoint(3)} is unaffected. Find the cause" in text
    assert "stopped, a person must look (exit code 76)" in text
    assert f"saved up to step 3 in {site.run_dir.checkpoint(3)}" in text

    last_line = json.loads(site.run_dir.metrics.read_text().splitlines()[-1])
    assert (last_line["step"], last_line["train/lm_loss"], last_line["nonfinite"]) == (bad, None, True)
    assert last_line["optim/skipped"] == 1.0
    findings = [json.loads(line) for line in evidence.read_text().splitlines()]
    assert findings
    assert {finding["rank"] for finding in findings} == {1}
    assert {finding["channel"] for finding in findings} <= {"en", "code"}
    assert all({"part", "epoch", "sample", "position"} <= finding.keys() for finding in findings)
    assert all(each.step == bad and each.documents and math.isnan(each.loss) for each in read_evidence(evidence))
    (event,) = site.events("nan")
    assert (event["step"], event["loss"], event["ranks"]) == (bad, None, [1])
    assert event["evidence"] == str(evidence)
    assert site.events("exit")[-1]["exit_code"] == 76
    assert site.checkpoints() == ["step_0000002", "step_0000003"]

    code, text = site.train("--set", "run.stop_at_step=4").finish()
    assert code == 0, text
    assert f"resuming small from {site.run_dir.checkpoint(3)} (step 3)" in text
    assert [record.attempt for record in site.records()] == [0, 0, 0, 1]
    assert {step: site.losses()[step] for step in good} == good
    assert math.isfinite(site.losses()[4][0])
