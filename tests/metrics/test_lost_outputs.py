"""Files that somebody removes, replaces or cuts while training writes to them: noticed, told, and begun anew."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from metric_samples import record

from harness.config.schema import LoggingConfig
from harness.metrics.recorder import Recorder
from harness.metrics.sinks import Outlets
from harness.run.event_types import FileLost, Started
from harness.run.events import read_events
from harness.run.heartbeats import Heartbeat, read_beats
from harness.run.paths import RunDir
from harness.run.records import whole_records
from harness.watch.event_file import read_scalars


def opened(root: Path, stream: io.StringIO, *, tensorboard: bool = False) -> Recorder:
    return Recorder(
        RunDir(root),
        LoggingConfig(tensorboard=tensorboard),
        train_steps=10,
        channels=("zh",),
        resume_step=0,
        outlets=Outlets(stream=stream, clock=lambda: 1000.0),
    )


def replace(path: Path) -> None:
    path.with_name("other").write_text("")
    path.with_name("other").replace(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "was removed while it was written to"),
        (replace, "was replaced by another file while it was written to"),
        (lambda path: os.truncate(path, 10), "was cut while it was written to"),
    ],
)
def test_metrics_go_on_and_people_are_told(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    stream, path = io.StringIO(), tmp_path / "metrics.jsonl"
    writes = opened(tmp_path, stream)
    for step in range(1, 4):
        writes.step(record(step))
    damage(path)
    for step in range(4, 8):
        writes.step(record(step))
    writes.close()
    assert [each.step for each in whole_records(path)] == [4, 5, 6, 7]
    told = f"metrics.jsonl {words}: what it had is gone, and what follows is in a file of that name"
    assert stream.getvalue().count(f"warning: {told}\n") == 1
    (event,) = read_events(tmp_path / "events.jsonl")
    assert event == FileLost(time=1000.0, attempt=0, step=4, file="metrics.jsonl", reason=told)


def test_lines_wait_while_a_link_is_in_the_place_of_their_file(tmp_path: Path) -> None:
    """A link could lead to any file of the user who trains."""
    stream, path = io.StringIO(), tmp_path / "metrics.jsonl"
    writes = opened(tmp_path, stream)
    writes.step(record(1))
    path.unlink()
    (tmp_path / "precious").write_text("mine")
    path.symlink_to("precious")
    for step in (2, 3):
        writes.step(record(step))
    path.unlink()
    writes.step(record(4))
    writes.close()
    assert (tmp_path / "precious").read_text() == "mine"
    assert [each.step for each in whole_records(path)] == [2, 3, 4]
    assert "warning: cannot write metrics.jsonl" in stream.getvalue()
    assert "metrics.jsonl was removed while it was written to" in stream.getvalue()


def test_events_go_on(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = opened(tmp_path, stream)
    writes.event(Started(attempt=0, step=0))
    (tmp_path / "events.jsonl").unlink()
    writes.event(Started(attempt=0, step=5))
    writes.close()
    assert [(event.kind, event.step) for event in read_events(tmp_path / "events.jsonl")] == [
        ("started", 5),
        ("file-lost", 5),
    ]
    assert "warning: events.jsonl was removed" in stream.getvalue()


def test_tensorboard_goes_on_in_a_new_file(tmp_path: Path) -> None:
    stream = io.StringIO()
    writes = opened(tmp_path, stream, tensorboard=True)
    writes.step(record(1))
    shutil.rmtree(tmp_path / "tensorboard")
    for step in (2, 3):
        writes.step(record(step))
    writes.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert [scalar.step for scalar in read_scalars(path)] == [2, 3]
    assert stream.getvalue().count("warning: TensorBoard was removed while it was written to") == 1


def test_a_file_that_is_a_pipe_ends_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    os.mkfifo(tmp_path / "metrics.jsonl")
    writes = opened(tmp_path, stream)
    writes.step(record(1))
    (tmp_path / "metrics.jsonl").unlink()
    writes.step(record(2))
    writes.close()
    assert "warning: cannot write metrics.jsonl" in stream.getvalue()
    assert [each.step for each in whole_records(tmp_path / "metrics.jsonl")] == [1, 2]


def test_heartbeats_go_on_without_their_folder(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    with Heartbeat(run_dir.heartbeat(0), 0, every_s=0.01):
        while not list(read_beats(run_dir)):
            pass
        shutil.rmtree(run_dir.heartbeats, ignore_errors=True)
    assert [beat.rank for beat in read_beats(run_dir)] == [0]
