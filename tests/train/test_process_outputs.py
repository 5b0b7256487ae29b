"""What a training process writes is removed while it trains."""

from __future__ import annotations

import json
from pathlib import Path

from process_runs import Site

from harness.run.records import whole_records


def test_metrics_that_are_removed_are_begun_anew_and_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config["checkpoint"] = {"save_every_steps": 1000}
    metrics = site.run_dir.metrics
    command = site.train()
    command.wait_until(lambda: len(site.records()) >= 5)
    last = max(record.step for record in site.records())
    metrics.unlink()
    code, text = command.finish()
    assert code == 0, text
    steps = [record.step for record in whole_records(metrics)]
    assert steps == list(range(steps[0], 201))
    assert steps[0] > last
    (event,) = site.events("file-lost")
    assert event["file"] == "metrics.jsonl"
    assert f"warning: {event['reason']}" in text
    assert json.loads(metrics.read_text().splitlines()[0])["step"] == event["step"] == steps[0]


def test_a_damaged_journal_ends_a_start_before_anything_is_trained(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run_dir.root.mkdir()
    site.run_dir.order.write_text(
        '{"kind": "rollback", "order": "a", "skip_windows": [[4, 8]]}\n{"kind": "parts", "posi'
    )
    site.run_dir.order.write_text(site.run_dir.order.read_text() + "\n")
    code, text = site.train().finish()
    assert code == 65, text
    assert f"{site.run_dir.order} is damaged: line 2: " in text
    assert "Traceback" not in text
    assert site.records() == []
