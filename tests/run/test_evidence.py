"""Evidence is read as it was written, also that of earlier versions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.run.evidence import evidence_files, read_evidence, write_evidence
from harness.run.paths import RunDir

LINE = {
    "step": 40,
    "position": 321,
    "loss": 9.5,
    "tokens": 64,
    "channel": "code",
    "part": "part-00007",
    "epoch": 1,
    "sample": 551,
    "documents": [8812, 8813],
}


def test_text_with_other_line_ends_does_not_end_a_line(tmp_path: Path) -> None:
    text = "a line separator\u2028, a next line\x85 and a form feed\x0c"
    path = write_evidence(RunDir(tmp_path), 40, [{**LINE, "text": text}, {**LINE, "loss": None}])
    first, second = read_evidence(path)
    assert (first.step, first.loss, first.documents) == (40, 9.5, (8812, 8813))
    assert math.isnan(second.loss)


def test_samples_that_earlier_versions_left_after_a_step_that_was_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "step_0000002.jsonl"
    path.write_text('{"rank": 1, "position": 9, "channel": "en", "part": "part-00000", "epoch": 0, "sample": 4}\n')
    (found,) = read_evidence(path)
    assert (found.position, found.channel, found.index, found.documents) == (9, "en", 4, ())
    assert math.isnan(found.loss)


def test_a_file_is_never_overwritten_and_the_newest_comes_first(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    paths = [write_evidence(run_dir, step, [LINE]) for step in (40, *[41] * 10)]
    assert [path.name for path in paths[:3]] == ["step_0000040.jsonl", "step_0000041.jsonl", "step_0000041.2.jsonl"]
    assert [path for _, path in evidence_files(run_dir)] == paths[::-1]
    assert evidence_files(RunDir(tmp_path / "none")) == []


@pytest.mark.parametrize("text", ["half", '{"rank": 3, "finite_gradient": false}\n', "[" * 100_000, "{}", "7"])
def test_what_holds_no_samples_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "step_0000002.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot be read as evidence .* ask for it again with `harness signal"):
        read_evidence(path)
