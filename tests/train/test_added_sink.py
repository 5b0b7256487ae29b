"""A sink is added as somebody would add it: a file of its own and an entry in the table. It fails in every method.

The harness that has it is a copy, which trains in processes of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from process_runs import REPOSITORY, Site

pytestmark = pytest.mark.slow

SINK = """
class Elsewhere:
    name = "Elsewhere"

    def step(self, record, *, is_repeated):
        raise LookupError(f"no room for step {record.step}")

    def rewind(self, step):
        raise LookupError("no way back")

    def close(self):
        raise LookupError("no end")
"""
IMPORT = "from harness.metrics.elsewhere import Elsewhere\n"
ENTRY = '    SinkKind(what="lines elsewhere", is_wanted=lambda logging: True, open=lambda context: Elsewhere()),\n'


def test_training_ends_well_with_a_sink_that_fails_in_every_method(tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(REPOSITORY / "harness", package / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "harness/metrics/elsewhere.py").write_text(SINK)
    table = package / "harness/metrics/sinks.py"
    text = table.read_text()
    for place, line in (("from harness.metrics.jsonl import", IMPORT), ("SINKS = (\n", ENTRY)):
        assert text.count(place) == 1
        text = text.replace(place, place + line if place.endswith("\n") else line + place)
    table.write_text(text)
    site = Site(tmp_path / "site")
    site.config["phases"][0]["train_steps"] = 4
    code, text = site.train(environment={"PYTHONPATH": str(package)}, folder=package).finish()
    assert code == 0, text
    warnings = [line for line in text.splitlines() if "Elsewhere" in line]
    assert warnings == ["warning: cannot write Elsewhere: LookupError: no room for step 1; training goes on"]
    assert [found.step for found in site.records()] == [1, 2, 3, 4]
    assert len([line for line in text.splitlines() if line.startswith("step ")]) == 4
