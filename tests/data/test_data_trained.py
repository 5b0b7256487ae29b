"""Which positions a run has trained on, held against a run that writes them down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order.cursor import Cursor
from harness.errors import DataError
from harness.run import metric_names as names
from harness.run.order_file import append_to_journal
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.usage.trained import Trained, Windows, follow, place_of, trained_by
from tests.metric_samples import record

PHASES = ("warm-up", "main", "long")
PHASE_STEPS = 4
BATCH_SIZES = (2, 3, 5)


class Diary:
    """A run that remembers the position of every sample, and the cursor before every step."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.windows: dict[int, Windows] = {0: ()}
        self.journal = Cursor().adopt({"zh": (1, "x")}).history
        self.attempt = 0
        self.cursors = [Cursor(history=self.journal)]
        self.seen: dict[tuple[int, int], list[int]] = {}
        self.kept: list[int] = []

    @property
    def step(self) -> int:
        return len(self.cursors) - 1

    def train(self, num_steps: int) -> None:
        for _ in range(num_steps):
            phase = min(self.step // PHASE_STEPS, 2)
            cursor = self.cursors[-1] if self.cursors[-1].phase == phase else self.cursors[-1].begin_phase(phase)
            self.cursors[-1] = cursor
            positions, behind = cursor.take(BATCH_SIZES[phase], 8)
            self.seen.setdefault((self.attempt, phase), []).extend(positions.tolist())
            self.cursors.append(behind)
            self.records.append(
                replace(
                    record(self.step),
                    attempt=self.attempt,
                    phase=PHASES[phase],
                    consumed_samples=behind.consumed_samples,
                )
            )

    def roll_back(self, to_step: int, skipped: tuple[int, int] | None) -> None:
        here = self.cursors[-1]
        cursor = self.cursors[min(to_step, self.step)].with_changes(here.history)
        for start, stop in (*here.skip_windows, *([] if skipped is None else [skipped])):
            cursor = cursor.with_skip_window(start, max(start, stop))
        del self.cursors[min(to_step, self.step) :]
        self.cursors.append(cursor)
        self.attempt += 1
        self.windows[self.attempt] = cursor.skip_windows

    def adopt(self, num_parts: int) -> None:
        before = self.cursors[-1]
        self.cursors[-1] = before.adopt({"zh": (num_parts, "x")})
        self.journal = Cursor(history=self.journal).with_changes(self.cursors[-1].history).history


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("train"), st.integers(1, 5)),
            st.tuples(st.just("back"), st.integers(0, 12), st.integers(0, 9), st.integers(0, 6)),
            st.tuples(st.just("adopt"), st.integers(2, 9)),
        ),
        max_size=8,
    )
)
def test_positions_of_every_attempt(actions: list[tuple[object, ...]]) -> None:
    diary = Diary()
    for kind, *values in [*actions, ("train", 2)]:
        numbers = [value for value in values if isinstance(value, int)]
        if kind == "train":
            diary.train(numbers[0])
        elif kind == "adopt":
            diary.adopt(numbers[0])
        elif diary.step:
            to_step = min(numbers[0], diary.step)
            ahead = diary.cursors[to_step].next_position
            start = ahead + numbers[1] if numbers[2] else None
            diary.roll_back(to_step, None if start is None else (start, start + numbers[2]))
    trained = follow(diary.records, PHASES, diary.windows, diary.journal)
    seen: dict[tuple[int, int], list[int]] = {}
    for each in trained:
        seen.setdefault((each.attempt, each.phase), []).extend(positions_of(each))
    assert seen == diary.seen
    kept = sorted(position for each in trained if each.is_kept for position in positions_of(each))
    line = [
        cursor.take(after.consumed_samples - cursor.consumed_samples, 8)[0].tolist()
        for cursor, after in zip(diary.cursors, diary.cursors[1:], strict=False)
    ]
    assert kept == [position for positions in line for position in positions]
    last = [each for each in trained if each.is_kept][-1]
    before = diary.cursors[-2]
    assert {each for each in last.history if each.position <= before.next_position} == {
        each for each in before.history if each.position <= before.next_position
    }


def positions_of(trained: Trained) -> list[int]:
    return [position for start, stop in trained.ranges() for position in range(start, stop)]


def test_place_among_skipped_samples() -> None:
    windows = ((2, 4), (7, 8))
    assert [place_of(number, windows) for number in range(6)] == [0, 1, 4, 5, 6, 8]


def test_record_that_is_missing() -> None:
    with pytest.raises(DataError, match="metrics.jsonl has no record of step 2, which led to step 3"):
        follow([record(3)], PHASES, {0: ()}, ())


def test_run_directory_is_read(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    records = [(0, 1, 4), (0, 2, 8), (0, 3, 12), (1, 2, 8)]
    lines = [
        to_json_line(
            StepRecord(
                attempt=attempt,
                step=step,
                time=0.0,
                phase="main",
                consumed_samples=consumed,
                consumed_tokens=8 * consumed,
                batch_hash=1,
                values={names.LM_LOSS: 1.0},
            )
        )
        for attempt, step, consumed in records
    ]
    run_dir.metrics.write_text("".join(lines) + lines[0][:30])
    event = {"kind": "rollback", "attempt": 1, "step": 1, "skip_windows": [[4, 12]]}
    run_dir.events.write_text(json.dumps(event) + "\n{broken\n")
    append_to_journal(run_dir.order, Cursor().adopt({"zh": (1, "x")}).history)
    found = trained_by(run_dir, ["main"], ())
    assert [(each.attempt, each.ranges(), each.is_kept) for each in found] == [
        (0, [(0, 4)], True),
        (0, [(4, 12)], False),
        (1, [(12, 16)], True),
    ]
    assert found[0].history == Cursor().adopt({"zh": (1, "x")}).history
