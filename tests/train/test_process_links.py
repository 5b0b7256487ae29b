"""Runs whose folders lie elsewhere and are linked: training goes on as from the folders themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_runs import Site

from harness.run.paths import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A run of 4 steps that keeps its last checkpoint only, stopped after 2."""
    made = Site(tmp_path)
    made.config["phases"][0]["train_steps"] = 4
    made.config["checkpoint"] = {"save_every_steps": 1, "keep_last": 1, "save_as_suspect": False}
    code, text = made.train("--set", "run.stop_at_step=2").finish()
    assert code == 0, text
    return made


def test_a_run_goes_on_from_a_linked_checkpoint_and_removes_the_link_only(site: Site) -> None:
    (site.root / "scratch").mkdir()
    there = site.run_dir.checkpoint(2).rename(site.root / "scratch/moved")
    site.run_dir.checkpoint(2).symlink_to("../../scratch/moved")
    before = (there / "manifest.json").read_bytes()
    code, text = site.train().finish()
    assert code == 0, text
    assert f"resuming small from {site.run_dir.checkpoint(2)} (step 2)" in text
    assert "passed over" not in text
    assert [record.step for record in site.records()] == [1, 2, 3, 4]
    assert site.checkpoints() == ["step_0000004"]
    assert (there / "manifest.json").read_bytes() == before


def test_the_run_its_checkpoints_and_its_channels_may_be_links(site: Site) -> None:
    (site.root / "scratch").mkdir()
    for folder in (site.run_dir.checkpoints, site.root / "data/en", site.run_dir.root):
        folder.rename(site.root / "scratch" / folder.name)
        folder.symlink_to(site.root / "scratch" / folder.name)
    code, text = site.train().finish()
    assert code == 0, text
    assert f"resuming small from {site.run_dir.checkpoint(2)} (step 2)" in text
    assert site.checkpoints() == ["step_0000004"]
    assert RunDir(site.root / "scratch/run").checkpoints.is_symlink()


def test_checkpoints_that_lead_nowhere_begin_nothing_anew(site: Site) -> None:
    site.run_dir.checkpoints.rename(site.root / "gone")
    site.run_dir.checkpoints.symlink_to(site.root / "scratch")
    code, text = site.train().finish()
    assert code == 64, text
    assert f"is a link to {site.root / 'scratch'}, which cannot be read: No such file or directory" in text
    assert [record.step for record in site.records()] == [1, 2]
