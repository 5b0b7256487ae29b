"""Follows docs/continue.md: writes its files and runs its commands, in order, in an empty folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_tutorial import BLOCK, ROOT, run

pytest.importorskip("datatrove")
pytest.importorskip("transformers")

PAGE = ROOT / "docs" / "continue.md"
NEIGHBOURS, LOW_RESOURCE = ("id", "ms", "tl", "vi", "th"), ("jv", "km", "lo", "my")
LANGUAGES = ("en", "zh", *NEIGHBOURS, *LOW_RESOURCE)


def test_every_command_of_the_page_is_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(BLOCK.findall(text))


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_goes_on_in_other_languages(tmp_path: Path) -> None:
    printed: dict[str, str] = {}
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"], encoding="utf-8")
        else:
            printed[block["text"]] = run(block["text"], tmp_path)
    output = "".join(printed.values())
    # No language is lost on the way: not by the rules, and not by the tokenizer.
    kept = {
        name: int(share)
        for name, share in re.findall(r"cleaned/(\w+): kept [\d,]+ of [\d,]+ documents \((\d+)", output)
    }
    assert set(kept) == set(LANGUAGES) and min(kept.values()) >= 80, kept
    saved = {
        name: int(share) for name, share in re.findall(r"(\w+): [\d,]+ tokens before, .*\((\d+)\.\d+% fewer", output)
    }
    assert set(saved) == {"id", "vi", "th", "km", "lo", "my"} and min(saved.values()) >= 35, saved
    # The loss of every language before, between and after.
    [base] = events(tmp_path / "runs/sea", "base-losses")
    first, second = events(tmp_path / "runs/sea", "phase-losses")
    assert all(set(event["losses"]) == set(LANGUAGES) for event in (base, first, second))
    before, between, after = (event["losses"] for event in (base, first, second))
    assert all(between[name] < before[name] - 1 for name in NEIGHBOURS), (before, between)
    assert all(after[name] < between[name] - 0.1 for name in LOW_RESOURCE), (between, after)
    assert all(after[name] < before[name] for name in LANGUAGES), (before, after)
    assert set(first["worse_than_base"]) <= {"km", "lo", "my"}
    assert "worse than" in output and "0 differences" in output
