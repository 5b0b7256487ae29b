"""A trainer whose mailbox holds hostile and absurd commands goes on, in real processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from process_runs import Site

pytestmark = pytest.mark.slow

LAST_STEP = 8


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.config["phases"][0]["train_steps"] = LAST_STEP
    made.run_dir.make_folders()
    return made


def rejected(site: Site) -> dict[str, str]:
    return {path.stem: path.read_text() for path in site.run_dir.signals_rejected.glob("*.reason")}


def test_no_name_and_no_number_of_a_command_ends_or_holds_up_training(site: Site) -> None:
    signals = site.run_dir.signals
    (signals / os.fsdecode(b"\xff.json")).write_text('{"kind": "stop"}')
    absurd = {"kind": "rollback", "before_step": 310, "skip_steps": [400_000_000, 400_000_100]}
    (signals / "absurd.json").write_text(json.dumps(absurd))
    (signals / "far.json").write_text(json.dumps(absurd | {"skip_steps": [1, 400_000_000]}))
    (signals / ("x" * 250 + ".json")).write_text('{"kind": "stop"}')
    assert site.train().finish()[0] == 77  # by the command with the long name

    began = time.monotonic()
    code, text = site.train().finish()  # which is not found again
    assert code == 0, text
    assert time.monotonic() - began < 60
    assert "Traceback" not in text
    reasons = rejected(site)
    assert "its name is not UTF-8" in reasons[r"\udcff.json"]
    assert "these steps were not made" in reasons["absurd.json"]
    assert "these steps were not made" in reasons["far.json"]
    assert sorted(path.name for path in signals.iterdir()) == ["done", "rejected"]


def test_a_command_that_was_refused_says_so_to_whoever_waits(site: Site) -> None:
    (site.run_dir.signals / "q.json").write_text('{"kind": "quarantine", "documents": {"en/part-99999": [1]}}')
    (site.run_dir.signals / "e.json").write_text('{"kind": "evidence", "steps": [5, 6]}')
    (site.run_dir.signals / "r.json").write_text('{"kind": "rollback", "to_step": 5}')
    assert site.train().finish()[0] == 0
    refused = {done["source"]: done.get("refused", "") for done in site.acknowledgements()}
    assert "part-99999" in refused["q.json"]
    assert "are not done yet" in refused["e.json"]
    assert refused["r.json"]


def test_another_users_journal_of_the_order_is_not_believed(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a file to another user")
    site.run_dir.order.write_text('{"kind": "rollback", "order": "x", "skip_windows": [[0, 8]]}\n')
    os.chown(site.run_dir.order, 65534, -1)
    code, text = site.train().finish()
    assert code == 65, text
    assert f"{site.run_dir.order} belongs to user 65534" in text
    assert "Traceback" not in text
