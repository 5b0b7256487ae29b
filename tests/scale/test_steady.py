"""Rank 0's training thread does nothing in files in a step, and what it does does not grow with the ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def of_rank_0(folder: Path, num_ranks: int) -> Any:
    """Operations of rank 0 on files at a start, a step, a save and a load, by thread."""
    folder.mkdir()
    found: dict[str, Any] = {}
    command = [sys.executable, "-m", "benchmarks.pretended_world", "--ranks", str(num_ranks), "--folder", str(folder)]
    for further in ([], ["--resume"]):
        done = subprocess.run([*command, *further], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        found |= json.loads(done.stdout)
    return {what: told["operations"] for what, told in found.items()}


def stages_of(folder: Path) -> list[tuple[str, list[str]]]:
    """Kind and stages of the events that have some."""
    lines = (folder / "run" / "events.jsonl").read_text().splitlines()
    return [(event["kind"], list(event["stages"])) for event in map(json.loads, lines) if "stages" in event]


@pytest.mark.slow
def test_a_step_is_without_files_and_nothing_grows_with_the_ranks(tmp_path: Path) -> None:
    few, many = (of_rank_0(tmp_path / str(number), number) for number in (64, 4096))
    assert few == many
    assert few["load"]["others"]["open checkpoints/step_0000007/__0_0.distcp"] == 1
    assert set(few["step"]) == {"desk"}
    assert few["step"]["desk"] == {"open fence/0000001": 1, "stat metrics.jsonl": 2}
    assert set(few["start"]["MainThread"]) > {"open lock", "listdir fence"}
    assert stages_of(tmp_path / "64") == [
        ("started", ["join", "find", "groups", "data", "build", "load"]),
        *[("saved", ["begin", "write", "publish"])] * 3,
        ("resumed", ["join", "find", "groups", "data", "build", "load", "check", "begin"]),
    ]
    published = {name for name in few["save"]["desk"] if "rename" in name}
    assert published == {
        "rename checkpoints/step_0000006.1.partial",
        "rename checkpoints/step_0000006.1.partial/manifest.json.partial",
    }
    assert "open checkpoints/step_0000003/manifest.json" in few["save"]["housekeeping"]
    in_training = few["save"]["MainThread"]
    assert not [name for name in in_training if not name.startswith(("fsync", "open an")) and ".partial" not in name]
