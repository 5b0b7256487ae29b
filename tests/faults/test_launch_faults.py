"""One disturbed run of real processes, and the campaign's own eyes."""

from __future__ import annotations

from pathlib import Path

import pytest
from disturbed_runs import campaign_site
from fault_report import Report, TrialId
from launch_faults import FAULTS, Trial
from scenes import line_of

from harness.run.paths import RunDir


@pytest.mark.slow
def test_a_disturbed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    undisturbed = campaign_site(tmp_path / "undisturbed")
    code, text = undisturbed.train().finish()
    assert code == 0, text
    report = Report()
    expected = line_of(undisturbed.run_dir.root)
    Trial(campaign_site(tmp_path / "disturbed", async_save=True), TrialId("launch", 0, 0), expected, report).run(1)
    assert report.violations == []
    assert report.injections.total() >= 1
    assert {family for _, family in report.injections} <= set(FAULTS)


@pytest.mark.slow
def test_the_campaign_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A run whose losses differ in one bit of one step, and an expectation that no run meets."""
    site = campaign_site(tmp_path)
    site.config["run"]["stop_at_step"] = 4
    report = Report()
    Trial(site, TrialId("launch", 0, 1), {1: (0.0, 0.0, 0)}, report).run(0)
    (violation,) = report.violations
    assert violation.text == "steps [1] are not those of an undisturbed run"
    assert RunDir(site.run_dir.root).checkpoint(4).is_dir()
