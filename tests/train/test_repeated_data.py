"""Channels that would be passed through too often: told at the start, and refused beyond a limit before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_runs import Command, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.config["run"]["stop_at_step"] = 1
    return site


def train(site: Site, *overrides: str) -> tuple[int, str]:
    return site.train(*(word for each in overrides for word in ("--set", each))).finish()


def test_a_start_tells_absurd_passes(site: Site) -> None:
    code, text = train(site, "phases.0.train_steps=400000")
    assert code == 0, text
    assert "warning: channel en would be passed through 7,89" in text
    assert "Beyond about 16 passes repeated text teaches next to nothing: add parts" in text
    code, text = train(site, "phases.0.train_steps=10", "run.stop_at_step=2")
    assert "would be passed through" not in text


def test_a_limit_is_kept_before_anything_starts(site: Site) -> None:
    code, text = train(site, "phases.0.max_epochs=3")
    assert code == 64, text
    assert "phases.0.max_epochs: channel en would be passed through 3.9" in text
    assert "at most 3 times are allowed. Add parts, lower its weight" in text
    assert not site.run_dir.root.exists()
    code, text = train(site, "phases.0.max_epochs=4")
    assert code == 0, text


def test_a_plan_and_a_check_before_the_queue_refuse_the_same(site: Site) -> None:
    train(site, "run.stop_at_step=1")
    for command in (["plan"], ["launch", "--dry-run", "--nodes", "1", "--gpus-per-node", "0"]):
        code, text = Command([*command, str(site.root / "config.yaml"), "--set", "phases.0.max_epochs=2"]).finish()
        assert code == 64, text
        assert "phases.0.max_epochs: channel en would be passed through 3.9" in text
