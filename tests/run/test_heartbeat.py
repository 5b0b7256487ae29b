"""The sign of life of a rank."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.run.heartbeats import Activity, Beat, Heartbeat, read_beats
from harness.run.paths import RunDir


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing within 10 s"
        time.sleep(0.005)


def test_the_file_says_where_the_rank_is_and_what_it_spent(tmp_path: Path) -> None:
    run, clock = RunDir(tmp_path / "run"), Clock()
    with Heartbeat(run.heartbeat(3), 3, every_s=60, clock=clock) as heartbeat:
        clock.now = 1002.0
        heartbeat.enter(Activity.DATA, 1)
        clock.now = 1003.0
        heartbeat.enter(Activity.FORWARD_BACKWARD, 1)
        clock.now = 1007.0
        heartbeat.enter(Activity.DATA, 2)
        clock.now = 1008.0
    (beat,) = read_beats(run)
    assert beat == Beat(
        rank=3,
        host=socket.gethostname(),
        pid=os.getpid(),
        step=2,
        activity=Activity.LEFT,
        since=1008.0,
        time=1008.0,
        spent_s={"start": 2.0, "data": 2.0, "forward-backward": 4.0},
    )
    assert [path.name for path in run.heartbeats.iterdir()] == ["rank_00003.json"]


def test_it_is_written_again_while_the_rank_waits(tmp_path: Path) -> None:
    run, clock = RunDir(tmp_path), Clock()

    def written() -> list[tuple[Activity, int, float, float]]:
        return [(beat.activity, beat.step, beat.since, beat.time) for beat in read_beats(run)]

    with Heartbeat(run.heartbeat(0), 0, every_s=0.01, clock=clock) as heartbeat:
        heartbeat.enter(Activity.FORWARD_BACKWARD, 7)
        clock.now = 1500.0
        wait_until(lambda: written() == [(Activity.FORWARD_BACKWARD, 7, 1000.0, 1500.0)])


def test_a_rank_that_fails_leaves_its_last_phase_behind(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ZeroDivisionError), Heartbeat(run.heartbeat(0), 0, every_s=60) as heartbeat:
        heartbeat.enter(Activity.SAVE, 9)
        raise ZeroDivisionError
    (beat,) = read_beats(run)
    assert (beat.activity, beat.step) == (Activity.SAVE, 9)


def test_a_disk_that_refuses_does_not_end_training(tmp_path: Path) -> None:
    (tmp_path / "heartbeats").write_text("in the way")
    with Heartbeat(RunDir(tmp_path).heartbeat(0), 0, every_s=0.01) as heartbeat:
        heartbeat.enter(Activity.DATA, 1)
        time.sleep(0.03)
    assert list(read_beats(RunDir(tmp_path))) == []


def test_what_is_no_beat_is_passed_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.heartbeats.mkdir()
    for rank, text in enumerate(("{", "[]", "{}", json.dumps({"phase": "dreaming"}))):
        run.heartbeat(rank).write_text(text)
    assert list(read_beats(run)) == []


def test_noting_a_phase_is_off_the_path_of_training(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "rank_00000.json", 0)
    started = time.perf_counter()
    for step in range(10_000):
        heartbeat.enter(Activity.DATA, step)
    assert time.perf_counter() - started < 1.0  # 100 µs each on a busy machine; it takes less than one
    assert not list(tmp_path.iterdir())


def test_time_spent_is_taken_once(tmp_path: Path) -> None:
    clock = Clock()
    heartbeat = Heartbeat(RunDir(tmp_path).heartbeat(0), 0, every_s=60, clock=clock)
    for seconds in (3.0, 4.0):
        heartbeat.enter(Activity.DATA, 1)
        clock.now += seconds
        heartbeat.enter(Activity.OPTIMIZER, 1)
        clock.now += 10.0
    assert heartbeat.take_spent_s(Activity.DATA) == 7.0
    assert heartbeat.take_spent_s(Activity.DATA) == 0.0
    assert heartbeat.take_spent_s(Activity.SAVE) == 0.0


def test_how_fast_a_rank_computes_is_in_its_beat(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with Heartbeat(run.heartbeat(0), 0, every_s=60) as heartbeat:
        heartbeat.compute_ms = 0.25
    (beat,) = read_beats(run)
    assert beat.compute_ms == 0.25
