"""A slice of the fault campaign, always the same one; `python -m benchmarks.faults` goes on as long as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_campaign import FAULTS, Report, Trial, campaign_site, delete, flip_a_bit, swap, truncate, zero_a_sector

from harness.run_dir import RunDir


@pytest.mark.parametrize("harm", [flip_a_bit, zero_a_sector, truncate, delete, swap])
def test_every_harm_changes_something(harm: object, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number + 1]) * 2000)
    before = [file.read_bytes() for file in files]
    harm(random.Random(3), files[0], files)  # type: ignore[operator]
    assert [file.read_bytes() if file.exists() else None for file in files] != before


@pytest.mark.slow
def test_a_disturbed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    undisturbed = campaign_site(tmp_path / "undisturbed")
    code, text = undisturbed.train().finish()
    assert code == 0, text
    report = Report()
    Trial(campaign_site(tmp_path / "disturbed", async_save=True), "0:0", undisturbed.losses(), report).run(2)
    assert report.violations == []
    assert report.injections.total() >= 1
    assert set(report.injections) <= set(FAULTS)


@pytest.mark.slow
def test_the_campaign_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A run whose losses differ in one bit of one step, and an expectation that no run meets."""
    site = campaign_site(tmp_path)
    site.config["run"]["stop_at_step"] = 4
    report = Report()
    Trial(site, "0:1", {1: (0.0, 0.0)}, report).run(0)
    assert report.violations == ["seed 0:1: steps [1] are not those of an undisturbed run"]
    assert RunDir(site.run_dir.root).checkpoint(4).is_dir()
