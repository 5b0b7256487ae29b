from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.metrics.tensorboard import EventFile, write_hyperparameters
from harness.run.records import StepRecord

pytest.importorskip("tensorboard")


def add(file: EventFile, step: int, time: float, values: dict[str, float]) -> None:
    record = StepRecord(
        attempt=0,
        step=step,
        time=time,
        phase="main",
        consumed_samples=0,
        consumed_tokens=0,
        batch_hash=0,
        values=values,
    )
    file.step(record, is_repeated=False)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself shows of a folder, read in a process of its own (it warns, and looks for tensorflow)."""
    program = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
shown = EventAccumulator(sys.argv[1]).Reload()
tags = shown.Tags()["scalars"]
json.dump({tag: [[point.step, point.value] for point in shown.Scalars(tag)] for tag in tags}, sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    return {tag: [(step, value) for step, value in points] for tag, points in json.loads(done.stdout).items()}


def test_tensorboard_shows_the_names_and_hides_the_points_that_a_resume_took_back(tmp_path: Path) -> None:
    times = itertools.count(1_700_000_000)
    clock = lambda: float(next(times))  # noqa: E731
    first = EventFile(tmp_path, purge_step=1, clock=clock)
    for step in range(1, 6):
        add(first, step, float(step), {"train/lm_loss": float(step), "train/lm_loss/zh": 2.0})
    first.close()
    second = EventFile(tmp_path, purge_step=4, clock=clock)
    add(second, 4, 6.0, {"train/lm_loss": 40.0})
    second.rewind(4)
    add(second, 4, 6.5, {"train/lm_loss": 41.0})
    second.close()
    assert scalars(tmp_path) == {
        "train/lm_loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 41.0)],
        "train/lm_loss/zh": [(1, 2.0), (2, 2.0), (3, 2.0)],
    }


def test_two_launches_in_one_second_do_not_share_a_file(tmp_path: Path) -> None:
    files = [EventFile(tmp_path, purge_step=1, clock=lambda: 5.0) for _ in range(2)]
    for file in files:
        file.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_half_a_record_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EventFile(tmp_path, purge_step=1, clock=lambda: 5.0)
    add(file, 1, 5.0, {"a": 1.0})
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size

    def half(target: object, data: bytes) -> None:
        target.write(data[:10])  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk_is_full:
        disk_is_full.setattr("harness.metrics.tensorboard.write_whole", half)
        with pytest.raises(OSError, match="No space left"):
            add(file, 2, 6.0, {"a": 2.0})
    assert path.stat().st_size == size
    add(file, 3, 7.0, {"a": 3.0})
    file.close()
    assert scalars(tmp_path) == {"a": [(1, 1.0), (3, 3.0)]}


def test_hyperparameters_stand_beside_the_metrics(tmp_path: Path) -> None:
    """In a file before that of the metrics, because TensorBoard follows the last one only."""
    values: dict[str, bool | float | str] = {"optimizer.learning_rate": 1e-3, "precision.dtype": "bf16", "tied": True}
    write_hyperparameters(tmp_path, values, run="/runs/tiny", clock=lambda: 5.0)
    file = EventFile(tmp_path, purge_step=1, clock=lambda: 5.0)
    add(file, 1, 6.0, {"train/lm_loss": 2.5})
    file.close()
    assert scalars(tmp_path) == {"train/lm_loss": [(1, 2.5)]}
    program = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
shown = EventAccumulator(sys.argv[1]).Reload()
(content,) = shown.PluginTagToContent("hparams").values()
start = HParamsPluginData.FromString(content).session_start_info
read = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
json.dump([start.group_name, read], sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["/runs/tiny", values]
