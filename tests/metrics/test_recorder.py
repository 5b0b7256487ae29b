from __future__ import annotations

import errno
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from metric_samples import record

from harness.config.schema import LoggingConfig
from harness.metrics.recorder import Recorder
from harness.metrics.sinks import Outlets
from harness.run import metric_names as names
from harness.run.append import AppendFile, OpenFile, open_unbuffered
from harness.run.event_types import NotFinite, Started
from harness.run.events import read_events
from harness.run.paths import RunDir
from harness.run.records import read_records


class FailingDisk:
    """A disk that is full while `full` is set."""

    def __init__(self) -> None:
        self.full = False

    def open_file(self, path: Path) -> AppendFile:
        return FailingFile(self, path)


class FailingFile:
    def __init__(self, disk: FailingDisk, path: Path) -> None:
        self._disk = disk
        self._file = open_unbuffered(path)

    def write(self, data: bytes, /) -> int | None:
        if self._disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


def recorder(
    root: Path,
    stream: io.StringIO,
    *,
    logging: LoggingConfig | None = None,
    open_file: OpenFile = open_unbuffered,
    resume_step: int = 0,
) -> Recorder:
    return Recorder(
        RunDir(root),
        logging or LoggingConfig(tensorboard=False),
        train_steps=10,
        channels=("zh",),
        resume_step=resume_step,
        outlets=Outlets(stream=stream, open_file=open_file, clock=lambda: 1000.0),
    )


def test_every_step_is_in_the_file_and_every_nth_on_the_console(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = recorder(tmp_path, stream, logging=LoggingConfig(console_every_steps=4, tensorboard=False))
    for step in range(1, 11):
        writes.step(record(step))
        assert [read.step for read in read_records(tmp_path / "metrics.jsonl")] == list(range(1, step + 1))
    writes.close()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["4/10", "8/10", "10/10"]


def test_an_evaluation_is_shown_on_a_line_of_its_own(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = recorder(tmp_path, stream, logging=LoggingConfig(console_every_steps=4, tensorboard=False))
    writes.step(record(3, **{names.valid_lm_loss_of("zh"): 2.5}))
    writes.close()
    assert stream.getvalue() == "held-out loss at step 3:  zh 2.5000\n"


def test_events_are_json_lines(tmp_path: Path) -> None:
    writes = recorder(tmp_path, io.StringIO())
    writes.event(
        NotFinite(
            attempt=1, step=7, loss=math.nan, grad_norm=1.5, channels=("zh",), ranks=(1, 2), evidence=str(Path("a/b"))
        )
    )
    writes.close()
    assert (tmp_path / "events.jsonl").read_text() == (
        '{"time": 1000.0, "kind": "nan", "attempt": 1, "step": 7, "loss": null, "grad_norm": 1.5, "channels": ["zh"], '
        '"ranks": [1, 2], "evidence": "a/b"}\n'
    )


def test_messages_reach_the_console_as_they_are(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = recorder(tmp_path, stream)
    writes.message("resumed from step 5 [sound]")
    writes.close()
    assert stream.getvalue() == "resumed from step 5 [sound]\n"


def test_a_file_that_a_crash_cut_stays_readable(tmp_path: Path) -> None:
    writes = recorder(tmp_path, io.StringIO())
    for step in (1, 2, 3):
        writes.step(record(step))
    writes.close()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    writes = recorder(tmp_path, io.StringIO(), resume_step=2)
    writes.step(record(3))
    writes.close()
    assert [read.step for read in read_records(metrics)] == [1, 2, 3]


def test_a_full_disk_is_a_warning_and_loses_nothing_once_there_is_room(tmp_path: Path) -> None:
    stream, disk = io.StringIO(), FailingDisk()
    writes = recorder(
        tmp_path,
        stream,
        logging=LoggingConfig(console_every_steps=1000, tensorboard=False),
        open_file=disk.open_file,
    )
    writes.step(record(1))
    disk.full = True
    for step in range(2, 6):
        writes.step(record(step))
    disk.full = False
    writes.step(record(6))
    writes.close()
    assert [read.step for read in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert stream.getvalue().splitlines() == [
        "warning: cannot write metrics.jsonl: No space left on device; 1 lines wait for room on the disk; "
        "training goes on",
        "metrics.jsonl is written again, after 4 failures",
    ]


def test_half_a_line_of_another_writer_costs_none_of_ours(tmp_path: Path) -> None:
    """Watcher and launcher append to the events too, and may die or find the disk full in the middle of a line."""
    writes = recorder(tmp_path, io.StringIO())
    writes.event(Started(attempt=0, step=1))
    with (tmp_path / "events.jsonl").open("a") as others:
        others.write('{"time": 1000.0, "kind": "hung", "att')
    writes.event(Started(attempt=0, step=2))
    writes.close()
    assert [event.step for event in read_events(tmp_path / "events.jsonl") if isinstance(event, Started)] == [1, 2]


def test_lines_that_never_found_room_are_reported_at_the_end(tmp_path: Path) -> None:
    stream, disk = io.StringIO(), FailingDisk()
    disk.full = True
    writes = recorder(tmp_path, stream, open_file=disk.open_file)
    writes.event(Started(attempt=0, step=1))
    writes.close()
    lost = f"warning: 1 lines of events.jsonl are lost: {tmp_path / 'events.jsonl'} did not take them"
    assert stream.getvalue().splitlines()[-1] == lost


def test_a_long_failure_does_not_flood_the_console(tmp_path: Path) -> None:
    stream, disk = io.StringIO(), FailingDisk()
    disk.full = True
    writes = recorder(tmp_path, stream, open_file=disk.open_file)
    for step in range(250):
        writes.event(Started(attempt=0, step=step))
    assert stream.getvalue().count("cannot write events.jsonl") == 3
    writes.close()


def test_tensorboard_files_are_written_if_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writes = recorder(tmp_path, io.StringIO(), logging=LoggingConfig())
    writes.step(record(1))
    writes.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/lm_loss" in file.read_bytes()
    recorder(tmp_path / "other", io.StringIO()).close()
    assert not (tmp_path / "other" / "tensorboard").exists()


def test_steps_that_are_repeated_count_instead_of_what_was_recorded_of_them(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = recorder(tmp_path, stream, logging=LoggingConfig(tensorboard=False, console_every_steps=1))
    for step in (1, 2, 3):
        writes.step(record(step))
    writes.repeat([record(2, **{names.GRAD_NORM: 7.0})])
    writes.repeat([])
    writes.close()
    assert [(read.step, read.values.get(names.GRAD_NORM)) for read in read_records(tmp_path / "metrics.jsonl")] == [
        (1, None),
        (2, 7.0),
    ]
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/10", "2/10", "3/10"]


def test_without_the_tensorboard_package_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    stream = io.StringIO()
    writes = recorder(tmp_path, stream, logging=LoggingConfig())
    writes.step(record(1))
    writes.close()
    expected = "warning: no TensorBoard files, the package `tensorboard` is not installed"
    assert stream.getvalue().splitlines()[0] == expected
    assert len(list(read_records(tmp_path / "metrics.jsonl"))) == 1


def test_a_tensorboard_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    stream = io.StringIO()
    recorder(tmp_path, stream, logging=LoggingConfig()).close()
    assert stream.getvalue().startswith("warning: no TensorBoard files: ")


def test_metrics_modules_import_neither_torch_nor_numpy_nor_rich() -> None:
    program = (
        "import sys, json, harness.metrics.recorder, harness.run.records\n"
        "print(json.dumps([name for name in ('torch', 'numpy', 'rich', 'tensorboard') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
