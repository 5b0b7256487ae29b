"""Forked writers of checkpoints: one that does not begin is forked again, one that stands still is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from harness.checkpoint import forked_results
from harness.checkpoint.forked_results import ForkedResults
from harness.checkpoint.stillness import Stillness


def work(path: Path) -> None:
    with path.open("w") as file:
        while True:
            file.write("x")
            file.flush()
            time.sleep(0.01)


def stand_still(_: Path) -> None:
    signal.pause()


@pytest.mark.parametrize(("target", "stands_still"), [(work, False), (stand_still, True)])
def test_who_writes_does_not_stand_still(tmp_path: Path, target: object, stands_still: bool) -> None:
    process = multiprocessing.get_context("fork").Process(target=target, args=(tmp_path / "file",))  # type: ignore[arg-type]
    process.start()
    try:
        time.sleep(0.5)
        stillness = Stillness(process.pid)
        time.sleep(0.3)
        first = stillness.seconds()
        time.sleep(0.3)
        assert (stillness.seconds() > first > 0.2) == stands_still
    finally:
        process.kill()
        process.join()


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    process = multiprocessing.get_context("fork").Process(target=os.getpid)
    process.start()
    process.join()
    stillness = Stillness(process.pid)
    time.sleep(0.1)
    assert stillness.seconds() < 0.05


def test_a_fork_that_does_not_begin_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Python waits in the forked process for a lock that another thread had."""
    monkeypatch.setattr(forked_results, "BEGINS_WITHIN_S", 0.5)
    forked: list[int] = []
    real_fork = os.fork

    def fork() -> int:
        pid = real_fork()
        if pid:
            forked.append(pid)
        elif len(forked) < 2:
            signal.pause()
        return pid

    monkeypatch.setattr(os, "fork", fork)
    results = ForkedResults()
    process = results.fork(lambda: results.put("written", {}))
    results.wait(process)
    assert results.get_nowait() == "written"
    assert len(forked) == 3
    assert process.pid == forked[-1]
    for pid in forked:
        assert not Path(f"/proc/{pid}").exists()

    forked.clear()
    monkeypatch.setattr(forked_results, "MAX_FORKS", 2)
    with pytest.raises(OSError, match="2 forked processes did not begin"):
        ForkedResults().fork(lambda: None)


def test_what_is_measured_is_what_is_written_whatever_the_process_does_meanwhile() -> None:
    """As training goes on while the state of before is written."""
    weight = torch.ones(100_000)
    may_measure = multiprocessing.get_context("fork").Event()

    def measure() -> list[float]:
        may_measure.wait(30)
        return [float(weight.square().sum())]

    results = ForkedResults(measure)
    process = results.fork(lambda: results.put("written", {}))
    weight.fill_(3.0)
    may_measure.set()
    results.wait(process)
    assert results.get_nowait() == "written"
    assert results.measured == [100_000.0]

    nothing_to_write = ForkedResults(measure)
    nothing_to_write.put_measured()
    assert nothing_to_write.measured == [900_000.0]


def test_a_writer_that_stands_still_is_killed_and_its_save_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked_results, "MAX_STILL_S", 0.5)
    monkeypatch.setattr(forked_results, "_LOOK_EVERY_S", 0.1)
    results = ForkedResults()
    process = results.fork(signal.pause)
    results.wait(process)
    assert process.exitcode == -signal.SIGKILL
    error = results.get_nowait()
    assert isinstance(error, TimeoutError)
    assert "stood still" in str(error)
