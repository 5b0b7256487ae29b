from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run import lines
from harness.run import metric_names as names
from harness.run.records import StepRecord, from_json_line, hidden_records, last_key, read_records, to_json_line

METRIC_NAMES = st.sampled_from([names.LM_LOSS, names.lm_loss_of("zh"), names.GRAD_NORM, names.LEARNING_RATE])


def record(step: int, attempt: int = 0, **values: float) -> StepRecord:
    return StepRecord(
        attempt=attempt,
        step=step,
        time=1700000000.125,
        phase="main",
        consumed_samples=step * 8,
        consumed_tokens=step * 8 * 128,
        batch_hash=0xBEEF,
        values=values or {names.LM_LOSS: 2.5},
    )


def test_line_is_the_documented_format() -> None:
    line = to_json_line(record(7, **{names.LM_LOSS: 1 / 3, names.SKIPPED: 0.0}))
    assert line == (
        '{"attempt": 0, "step": 7, "time": 1700000000.125, "phase": "main", "consumed_samples": 56, '
        '"consumed_tokens": 7168, "train/lm_loss": 0.3333333333333333, "optim/skipped": 0.0, '
        '"data/batch_hash": "000000000000beef"}\n'
    )


def test_the_loads_of_layers_survive_and_wrong_ones_are_no_record() -> None:
    written = dataclasses.replace(record(7), experts_by_layer=((1.25, 0.0), (8.0, 0.875)))
    line = to_json_line(written)
    assert '"experts/by_layer": [[1.25, 0.0], [8.0, 0.875]]' in line
    assert from_json_line(line) == written
    for wrong in ("[[1.25]]", "[1.25, 0.0]", '[["a", 0.0]]', "7", "[[1.25, null]]"):
        assert from_json_line(line.replace("[[1.25, 0.0], [8.0, 0.875]]", wrong)) is None


@given(
    values=st.dictionaries(METRIC_NAMES, st.floats(allow_nan=False, allow_infinity=False)),
    batch_hash=st.integers(0, 2**64 - 1),
)
def test_every_float_and_hash_survives_bit_by_bit(values: dict[str, float], batch_hash: int) -> None:
    written = StepRecord(
        attempt=1,
        step=2,
        time=3.0,
        phase="p",
        consumed_samples=4,
        consumed_tokens=5,
        batch_hash=batch_hash,
        values=values,
    )
    assert from_json_line(to_json_line(written)) == written


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_numbers_are_null_and_marked(value: float) -> None:
    line = to_json_line(record(1, **{names.LM_LOSS: value, names.GRAD_NORM: 1.0}))
    fields = json.loads(line)
    assert fields[names.LM_LOSS] is None
    assert fields["nonfinite"] is True
    read = from_json_line(line)
    assert read is not None
    assert math.isnan(read.values[names.LM_LOSS])
    assert set(read.values) == {names.LM_LOSS, names.GRAD_NORM}


def test_finite_records_carry_no_mark() -> None:
    assert "nonfinite" not in json.loads(to_json_line(record(1)))


def test_no_cut_of_a_line_is_taken_for_a_record() -> None:
    line = to_json_line(record(12, **{names.LM_LOSS: 2.5, names.lm_loss_of("zh"): 3.0})).encode()
    whole = {len(line), len(line) - 1}  # without its line end it is still whole
    for length in range(len(line) + 1):
        assert (from_json_line(line[:length]) is not None) == (length in whole)


def steps_of(path: Path, *lines: str | bytes) -> list[tuple[int, int]]:
    path.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return [(read.attempt, read.step) for read in read_records(path)]


def lines_of(attempt: int, first: int, last: int) -> list[str]:
    return [to_json_line(record(step, attempt)) for step in range(first, last + 1)]


def test_a_rewind_drops_the_older_steps_after_it_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    read = steps_of(path, *lines_of(0, 1, 6), *lines_of(1, 4, 5))
    assert read == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]  # step 6 of attempt 0 is not part of the run any more


def test_rewinds_nest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    read = steps_of(path, *lines_of(0, 1, 6), *lines_of(1, 5, 9), *lines_of(2, 3, 4))
    assert read == [(0, 1), (0, 2), (2, 3), (2, 4)]


def test_a_resume_within_an_attempt_replaces_what_came_after_the_save(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps_of(path, *lines_of(0, 1, 5), *lines_of(0, 3, 3)) == [(0, 1), (0, 2), (0, 3)]


def test_a_line_of_an_older_attempt_that_comes_late_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps_of(path, *lines_of(1, 1, 3), *lines_of(0, 2, 2)) == [(1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("junk", [b'{"attempt": 0, "st', b"\0\0\0\0", b"\xff\xfe{", b"[]", b"{}", b"17"])
def test_half_lines_are_passed_over_at_the_end_and_in_the_middle(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps_of(path, *lines_of(0, 1, 2), junk) == [(0, 1), (0, 2)]
    assert steps_of(path, *lines_of(0, 1, 2), junk, b"\n", *lines_of(0, 3, 3)) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    "damaged",
    [
        lines_of(0, 4, 4)[0].encode()[:40] + b"\0" * 50 + b"}\n",
        lines_of(0, 2, 2)[0].encode()[:40] + lines_of(0, 5, 5)[0].encode(),
        lines_of(0, 2, 2)[0].encode()[:60] + b'"}\n',
        b'{"attempt": 1, "step": 1, "phase": "\xd1"}\n',
        b'{"attempt": Infinity, "step": 1, "time": 1}\n',
        b'{"attempt": ' + b"9" * 5000 + b', "step": 1, "time": 1}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=["zeros", "merged", "cut", "half a character", "infinite", "huge", "deep"],
)
def test_a_line_that_cannot_be_read_hides_no_other(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    read = steps_of(path, *lines_of(0, 1, 5), damaged)
    assert read == [(0, step) for step in range(1, 6)]
    assert last_key(path) == (0, 5)
    assert list(hidden_records(path, attempt=0, step=5)) == []


def test_a_line_that_cannot_be_read_does_not_hide_its_own_repetition(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    read = steps_of(path, *lines_of(0, 1, 3), lines_of(0, 4, 4)[0][:40], "\n", *lines_of(0, 4, 5))
    assert read == [(0, step) for step in range(1, 6)]


def test_records_by_another_writer_are_read_whatever_the_order_of_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    other = json.dumps(dict(reversed(json.loads(to_json_line(record(2))).items()))) + "\n"
    assert steps_of(path, *lines_of(0, 1, 3), other) == [(0, 1), (0, 2)]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert steps_of(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([], []),
        (lines_of(0, 7, 9), []),
        (lines_of(1, 7, 8), []),
        (lines_of(1, 5, 5), [5, 6]),
        (lines_of(1, 5, 9), [5, 6]),
        (lines_of(1, 6, 6), [6]),
        ([*lines_of(1, 5, 5), *lines_of(2, 3, 4)], [3, 4, 5, 6]),
    ],
)
def test_the_way_to_a_checkpoint_that_a_lost_start_has_hidden(
    tmp_path: Path, lost: list[str], expected: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    steps_of(path, *lines_of(0, 1, 8), *lost)
    hidden = list(hidden_records(path, attempt=0, step=6))
    assert [(read.attempt, read.step) for read in hidden] == [(0, step) for step in expected]
    again = [to_json_line(dataclasses.replace(read, attempt=3)) for read in hidden]
    read = steps_of(path, *lines_of(0, 1, 8), *lost, *again, *lines_of(3, 7, 9))
    assert [step for _, step in read] == list(range(1, 10))
    assert {attempt for attempt, step in read if step <= 6} <= {0, 3}


def test_the_way_is_that_of_its_attempt_with_what_went_before_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps_of(path, *lines_of(0, 1, 6), *lines_of(1, 3, 6), *lines_of(2, 2, 2))
    hidden = list(hidden_records(path, attempt=1, step=5))
    assert [(read.attempt, read.step) for read in hidden] == [(0, 2), (1, 3), (1, 4), (1, 5)]


def test_the_last_line_up_to_a_step_is_found_however_far_back_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 300)
    path = tmp_path / "metrics.jsonl"
    steps_of(path, *lines_of(0, 1, 40), *lines_of(1, 30, 60), b'{"attempt": 0, "st')
    assert last_key(path) == (1, 60)
    assert last_key(path, up_to_step=29) == (0, 29)
    assert last_key(path, up_to_step=35) == (1, 35)
    assert last_key(path, up_to_step=0) is None
    assert last_key(tmp_path / "none") is None
