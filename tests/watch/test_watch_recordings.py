"""Recordings of every kind become the detector's records; what cannot be read is named."""

import gzip
import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import DataError
from harness.run.metric_names import SKIPPED
from harness.run.records import StepRecord, to_json_line
from harness.watch.detector import LossRecord
from harness.watch.event_file import Scalar, read_scalars
from harness.watch.recordings import curve_name, read_recording


def step_record(step: int, loss: float, attempt: int = 0) -> StepRecord:
    values = {
        "train/lm_loss": loss,
        "train/lm_loss/zh": loss + 0.5,
        "train/tokens/zh": 4096.0,
        "optim/grad_norm": 0.25,
        "optim/learning_rate": 3e-4,
        "perf/tflops_per_gpu": 400.0,
        "valid/lm_loss/zh": 9.0,
    }
    return StepRecord(
        attempt=attempt,
        step=step,
        time=1.0,
        phase="main",
        consumed_samples=step,
        consumed_tokens=step,
        batch_hash=1,
        values=values,
    )


def test_a_csv_is_read_plain_and_gzipped(tmp_path: Path) -> None:
    text = "step,loss,grad_norm,lr,mfu\n1,2.5,0.3,1e-4,40\n2,nan,,,\n\n3,2.25,0.5,1e-4,41\n"
    plain, zipped = tmp_path / "a.csv", tmp_path / "b.x.csv.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    first, second, third = read_recording(plain)
    assert first == LossRecord(step=1, loss=2.5, grad_norm=0.3, learning_rate=1e-4)
    assert second.loss is not None
    assert math.isnan(second.loss)
    assert (second.grad_norm, third.step) == (None, 3)
    assert [record.step for record in read_recording(zipped)] == [1, 2, 3]
    assert curve_name(zipped) == "b"


def test_a_csv_may_have_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,loss,loss/zh,tokens/zh,train/lm_loss/en\n7,2.5,3.0,100,2.0\n8,2.5,,0,2.0\n")
    first, second = read_recording(path)
    assert first == LossRecord(step=7, loss=2.5, channels={"zh": 3.0, "en": 2.0}, tokens={"zh": 100.0})
    assert second == LossRecord(step=8, loss=2.5, channels={"en": 2.0}, tokens={})


def test_a_csv_without_a_total_is_all_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,wiki,code\n7,2.5,1.0\n")
    assert list(read_recording(path)) == [LossRecord(step=7, loss=None, channels={"wiki": 2.5, "code": 1.0})]


def test_metrics_of_a_run_are_read_in_the_order_of_training(tmp_path: Path) -> None:
    lines = [
        to_json_line(step_record(1, 2.5)),
        to_json_line(step_record(2, math.nan)),
        to_json_line(step_record(1, 2.5, 1)),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join([lines[0], lines[1], '{"step": 3, "tra', "\n", "7\n", lines[2]]))
    first, second, third = read_recording(tmp_path)
    assert first == LossRecord(
        step=1,
        loss=2.5,
        channels={"zh": 3.0},
        tokens={"zh": 4096.0},
        grad_norm=0.25,
        learning_rate=3e-4,
        phase="main",
    )
    assert second.loss is not None
    assert math.isnan(second.loss)
    assert (third.step, third.attempt) == (1, 1)


@pytest.mark.parametrize(
    "damaged", ['{"attempt": 0, "step": 2, "phase": "ф'.encode()[:-1], b"[" * 100_000], ids=["half a character", "deep"]
)
def test_damaged_lines_of_a_run_are_passed_over(tmp_path: Path, damaged: bytes) -> None:
    lines = [to_json_line(step_record(step, 2.5)).encode() for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_bytes(lines[0] + damaged + b"\n" + lines[1])
    assert [record.step for record in read_recording(tmp_path)] == [1, 2]


def test_a_step_that_was_not_applied_is_not_finite_as_for_the_watcher(tmp_path: Path) -> None:
    record = step_record(1, 2.5)
    (tmp_path / "metrics.jsonl").write_text(to_json_line(replace(record, values={**record.values, SKIPPED: 1.0})))
    (read,) = read_recording(tmp_path)
    assert read.loss is not None
    assert math.isnan(read.loss)


def test_lines_of_another_program_are_read_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.5, "grad_norm": 0.5}\n{"step": 2, "text": "no loss"}\n')
    assert list(read_recording(path)) == [LossRecord(step=1, loss=2.5, grad_norm=0.5)]


def test_an_event_file_is_read_like_the_metrics(tmp_path: Path) -> None:
    writer_module = pytest.importorskip("torch.utils.tensorboard")
    with writer_module.SummaryWriter(str(tmp_path)) as writer:
        for step in (1, 2):
            writer.add_scalar("train/lm_loss", 2.5 * step, step)
            writer.add_scalar("train/lm_loss/zh", 3.0, step)
            writer.add_scalar("optim/grad_norm", 0.25, step)
            writer.add_scalar("perf/step_time_s", 7.0, step)
    records = list(read_recording(tmp_path))
    assert records == [
        LossRecord(step=1, loss=2.5, channels={"zh": 3.0}, grad_norm=0.25),
        LossRecord(step=2, loss=5.0, channels={"zh": 3.0}, grad_norm=0.25),
    ]
    (path,) = tmp_path.iterdir()
    assert next(read_scalars(path)) == Scalar(1, "train/lm_loss", 2.5)
    cut_off = tmp_path / "tfevents.cut"
    cut_off.write_bytes(path.read_bytes()[:-5])
    assert len(list(read_scalars(cut_off))) == 7


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.txt",
            "1 2",
            "a.txt: not a recording of losses. Allowed are metrics.jsonl, .csv, .csv.gz, TensorBoard event files "
            "(events.out.tfevents…) and run directories; rename the file if it is one of these.",
        ),
        (
            "a.csv",
            "iteration,loss\n1,2\n",
            "a.csv: the first line has the columns iteration, loss. A recording needs at least step,loss; allowed "
            "besides are grad_norm, lr, loss/<channel> and tokens/<channel>. Rename the columns.",
        ),
        (
            "a.csv",
            "",
            "a.csv: the first line has the columns (none). A recording needs at least step,loss; allowed besides are "
            "grad_norm, lr, loss/<channel> and tokens/<channel>. Rename the columns.",
        ),
        (
            "a.csv",
            "step,loss\n1,2.5\n2,two\n",
            "a.csv:3: '2,two' is not a row of numbers (could not convert string to float: 'two'). Allowed are numbers, "
            "nan, inf and empty cells, as many as there are columns. Correct or remove the line.",
        ),
        (
            "a.csv",
            "step,loss\n1\n",
            "a.csv:2: '1' is not a row of numbers (list index out of range). Allowed are numbers, nan, inf and empty "
            "cells, as many as there are columns. Correct or remove the line.",
        ),
        (
            "a.csv.gz",
            "step,loss\n1,2\n",
            "a.csv.gz: cannot be read as CSV: not gzip. Give a text file, or a gzipped one ending in .gz.",
        ),
        (
            "events.out.tfevents.1",
            "this is no event file, whatever its name says",
            "events.out.tfevents.1: cannot be read as a TensorBoard event file: there is no event in it. Give the "
            "file as it was written.",
        ),
        (
            "a.jsonl.gz",
            "{}",
            "a.jsonl.gz: cannot be read as lines of JSON: not gzip. Give a metrics.jsonl.",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_recording(path))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_folder_without_a_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_recording(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found no metrics.jsonl and 0 TensorBoard event files in this folder. "
        "Give a run directory, a folder with one event file, or the files themselves."
    )
