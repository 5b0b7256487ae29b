"""Which samples of a step look like dirt, and how that is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from harness.data.files.document_table import DocumentSpan
from harness.data.order.channel_order import SampleAddress
from harness.data.order.samples import ReadSample
from harness.run.paths import RunDir
from harness.run.records import StepRecord
from harness.usage.overlaps import WINDOW, overlaps
from harness.usage.past_steps import PastStep
from harness.usage.step_report import SampleReport, as_json, in_words, step_report

STEP = 40


class Letters:
    """A tokenizer of which every id is a character."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def sample(number: int, text: str, channel: str = "zh") -> ReadSample:
    tokens = np.array([ord(character) for character in text], dtype=np.int64)
    return ReadSample(
        position=100 + number,
        address=SampleAddress(channel=channel, part="part-00001", epoch=0, index=number),
        documents=(DocumentSpan(number, 0, len(tokens)),),
        tokens=tokens,
    )


def step(*texts: str) -> PastStep:
    record = StepRecord(
        attempt=0,
        step=STEP,
        time=0.0,
        phase="main",
        consumed_samples=0,
        consumed_tokens=0,
        batch_hash=0,
        values={},
    )
    return PastStep(record=record, samples=tuple(sample(number, text) for number, text in enumerate(texts)))


def plain(number: int) -> str:
    random = np.random.RandomState(number)
    return "".join(chr(0x4E00 + int(code)) for code in random.randint(0, 3000, size=100))


def report(tmp_path: Path, *texts: str) -> list[SampleReport]:
    return step_report(RunDir(tmp_path), step(*texts), Letters())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("17" + "\n" * 98, "98 % line breaks"),
        ("\ufffdÃ" * 10 + plain(9)[:80], "10 % unreadable characters"),
        ("menu | home\n" * 9, "% one line again and again"),
        ("a" * 100, "100 % one token"),
        ("abcd" * 25, "% repetition"),
        ("lorem ipsum dolor sit amet consectetur " * 40, "compresses"),
    ],
    ids=["newlines", "garbled", "one line", "one token", "cycle", "compresses"],
)
def test_what_looks_like_dirt_comes_first_and_says_why(text: str, told: str, tmp_path: Path) -> None:
    first, *others = report(tmp_path, plain(1), plain(2), text, plain(3))
    assert first.position == 102
    assert any(told in words for words in first.looks_like), first.looks_like
    assert first.suspicion >= 1.0
    assert all(each.suspicion < 1.0 and not each.looks_like for each in others)


def test_a_duplicate_is_found_wherever_it_begins(tmp_path: Path) -> None:
    found = report(tmp_path, plain(1), plain(2), plain(3)[:30] + plain(1)[:70], plain(4))
    assert [(each.position, each.duplicate_of) for each in found if each.duplicate_of is not None] == [
        (100, 102),
        (102, 100),
    ]
    assert "a duplicate of the sample at position 102" in found[0].looks_like


def test_overlaps_count_shared_stretches() -> None:
    samples = [np.arange(100), np.arange(50, 150), np.arange(200, 300), np.arange(5)]
    first, second, third, fourth = overlaps(samples)
    assert first is not None
    assert second is not None
    assert (first.other, second.other) == (1, 0)
    assert first.share == pytest.approx((50 - WINDOW + 1) / (100 - WINDOW + 1))
    assert third is fourth is None
    assert overlaps([]) == []


def evidence(tmp_path: Path, losses: dict[int, float | None], of_step: int = STEP) -> None:
    folder = RunDir(tmp_path).evidence_folder
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "step": of_step,
            "channel": "zh",
            "part": "part-00001",
            "epoch": 0,
            "sample": number,
            "loss": loss,
            "documents": [number],
        }
        for number, loss in losses.items()
    ]
    earlier = [{**line, "step": of_step - 1, "sample": 50, "loss": 3.0} for line in lines[:1]]
    (folder / f"step_{of_step:07d}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in (*lines, *earlier)))


def test_losses_come_from_evidence_if_there_is_some(tmp_path: Path) -> None:
    evidence(tmp_path, {0: 3.1, 1: 6.5, 2: None})
    (RunDir(tmp_path).evidence_folder / "step_0000041.jsonl").write_text('{"rank": 0, "finite_gradient": false}\nhalf')
    not_finite, far, *others = report(tmp_path, plain(1), plain(2), plain(3), plain(4))
    usual, unknown = sorted(others, key=lambda each: each.position)
    assert (not_finite.position, not_finite.looks_like) == (102, ["its loss is not finite"])
    assert (far.position, far.looks_like) == (101, ["a loss of 6.50 where 3.00 is usual"])
    assert (usual.loss, usual.looks_like) == (3.1, [])
    assert unknown.loss is None
    assert "loss 6.50 (usual 3.00)" in in_words(far, 50)
    assert json.loads(json.dumps(as_json([not_finite]), allow_nan=False))[0]["loss"] is None
    assert not_finite.loss is not None
    assert math.isnan(not_finite.loss)


def test_losses_come_from_the_newest_evidence(tmp_path: Path) -> None:
    evidence(tmp_path, {0: 9.9})
    first = RunDir(tmp_path).evidence(STEP)
    for number in (2, 10, 9):
        evidence(tmp_path, {0: float(number)})
        first.rename(first.with_name(f"{first.stem}.{number}.jsonl"))
    evidence(tmp_path, {0: 9.9})
    (reported,) = report(tmp_path, plain(1))
    assert reported.loss == 10.0


def test_many_line_breaks_are_counted(tmp_path: Path) -> None:
    (found,) = step_report(RunDir(tmp_path), step("a\n\n\n" + "\n" * 1300 + "c\n\n"), Letters())
    assert in_words(found, 100).endswith("a\n[1,303 line breaks]\nc\n\n")


def test_without_a_tokenizer_there_are_ids(tmp_path: Path) -> None:
    (found,) = step_report(RunDir(tmp_path), step("abc"), None)
    assert found.text is None
    assert "97 98 99" in in_words(found, 100)
    assert as_json([found])[0]["ids"] == [97, 98, 99]
