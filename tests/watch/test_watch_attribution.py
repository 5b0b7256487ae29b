"""Which samples are to blame, as a table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.run.evidence import Sample, read_evidence
from harness.watch.attribution import attribute, named

START = 100


def sample(step: int, loss: float, channel: str = "code", **changes: float) -> Sample:
    made = Sample(
        step=step, position=step, loss=loss, tokens=64, channel=channel, part="part-00007", documents=(step, step + 1)
    )
    return made.model_copy(update=changes)


BEFORE = [sample(step, 2.0 + 0.01 * (step % 3)) for step in range(90, START)]


def cause(
    within: list[Sample], direction: str = "up", height: float = 3.0, channel: str | None = "code"
) -> tuple[bool, str]:
    found = attribute([*BEFORE, *within], channel=channel, direction=direction, start=START, height=height)
    return found.dirty, found.text


@pytest.mark.parametrize(
    ("within", "direction", "height", "dirty", "words"),
    [
        ([sample(100, 9.0), sample(101, 2.0)], "up", 3.0, True, "a loss of 9.00 where 2.01 is usual"),
        ([sample(100, 2.9), sample(101, 2.9)], "up", 0.9, False, "do not look like dirt"),
        ([sample(100, 2.02), sample(101, 2.03)], "up", 3.0, False, "the model has changed, not the data"),
        ([sample(100, 0.2, newline_share=0.9)], "down", -1.8, True, "90 % line breaks"),
        ([sample(100, 0.2, one_token_share=0.8)], "down", -1.8, True, "80 % one token"),
        ([sample(100, 0.2, repeated_share=0.7)], "down", -1.8, True, "70 % repetition"),
        ([sample(100, 3.0, unreadable_share=0.3)], "up", 1.0, True, "30 % unreadable characters"),
        ([sample(100, 0.2)], "down", -1.8, False, "do not look like dirt"),
        ([sample(100, 3.0, repeated_share=0.7), *[sample(101, 3.0)] * 5], "up", 1.0, False, "do not look like dirt"),
        ([sample(100, math.nan)], "up", 0.0, True, "1 samples have a loss that is not finite"),
        ([], "up", 3.0, False, "there are no samples to compare with"),
    ],
)
def test_the_cause(within: list[Sample], direction: str, height: float, dirty: bool, words: str) -> None:
    distinct = [each.model_copy(update={"position": 1000 + number}) for number, each in enumerate(within)]
    found, text = cause(distinct, direction, height)
    assert (found, words in text) == (dirty, True), text


def test_a_channel_that_always_repeats_itself_is_not_dirty_for_that() -> None:
    always = [each.model_copy(update={"repeated_share": 0.6}) for each in BEFORE]
    within = [sample(100, 3.0, repeated_share=0.62)]
    assert not attribute([*always, *within], channel="code", direction="up", start=START, height=1.0).dirty


def test_for_the_total_every_sample_is_compared_with_its_own_channel() -> None:
    before = [*BEFORE, *(sample(step, 5.0, channel="zh") for step in range(90, START))]
    within = [sample(100, 8.0), sample(101, 5.0, channel="zh")]
    found = attribute([*before, *within], channel=None, direction="up", start=START, height=2.0)
    assert [each.sample.channel for each in found.dirty_samples] == ["code"]
    assert named(found) == "code/part-00007: documents 100, 101"


def test_evidence_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step_0000007.jsonl"
    path.write_text('{"rank": 3, "finite_gradient": false}\n')
    with pytest.raises(DataError, match="cannot be read as evidence .* ask for it again with `harness signal"):
        read_evidence(path)
    with pytest.raises(DataError, match="cannot be read as evidence"):
        read_evidence(tmp_path / "missing.jsonl")
