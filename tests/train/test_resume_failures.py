"""A checkpoint from which two starts failed is not tried a third time by itself."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import tampering
import worlds
from pool import JobFailedError, Pool
from small_run import Grid, launch, small_config

from harness.errors import CheckpointError
from harness.parallel.collectives import is_lost_connection
from harness.run import resume_failures
from harness.run.paths import RunDir

NAME = "step_0000010"


def fail(run_dir: RunDir, start: str, *, rank: int = 0, error: Exception | None = None) -> None:
    with (
        pytest.raises(type(error or ValueError())),
        resume_failures.recording(
            run_dir, run_dir.root / NAME, start=start, rank=rank, is_of_another_rank=is_lost_connection
        ),
    ):
        raise error or ValueError("it broke\nand more")


def test_two_starts_are_needed_whatever_the_number_of_ranks(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    fail(run_dir, "first", rank=0)
    fail(run_dir, "first", rank=1)
    resume_failures.require_not_failed_twice(run_dir, tmp_path / NAME)
    fail(run_dir, "second")
    with pytest.raises(CheckpointError) as caught:
        resume_failures.require_not_failed_twice(run_dir, tmp_path / NAME)
    assert str(caught.value) == (
        f"2 starts went on from {tmp_path / NAME} and failed before they saved anything:\n"
        "  ValueError: it broke\n  ValueError: it broke\n"
        "Nothing was started. Find the cause first. Then give --resume must to try this checkpoint again, or move its "
        "folder away to go on from the one before it."
    )
    resume_failures.require_not_failed_twice(run_dir, tmp_path / "step_0000020")


def test_a_lost_connection_is_no_failure_of_the_checkpoint(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for start in ("first", "second"):
        fail(run_dir, start, error=RuntimeError("[…/gloo/transport/tcp/pair.cc:538] Connection closed by peer"))
    resume_failures.require_not_failed_twice(run_dir, tmp_path / NAME)


def test_a_disk_that_does_not_say_what_was_saved_blames_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.checkpoints.mkdir()

    def refuse(_: object) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", refuse)
    for start in ("first", "second"):
        fail(run_dir, start)
    resume_failures.require_not_failed_twice(run_dir, tmp_path / NAME)


def test_without_a_checkpoint_nothing_is_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), resume_failures.recording(RunDir(tmp_path), None, start="first", rank=0):
        raise ValueError("x")
    assert not RunDir(tmp_path).resume_failures.exists()


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    fail(run_dir, "first")
    with run_dir.resume_failures.open("a") as file:
        file.write('{"checkpoint": "step_00\n[]\n3\n')
    fail(run_dir, "second")
    assert resume_failures.failures_of(run_dir, NAME) == ["ValueError: it broke"] * 2


def test_a_save_clears_the_count(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    fail(run_dir, "first")
    resume_failures.forget(run_dir)
    fail(run_dir, "second")
    resume_failures.require_not_failed_twice(run_dir, tmp_path / NAME)


@pytest.mark.slow
def test_the_third_start_stops_and_a_person_may_insist(
    pool: Pool, corpus: Path, base_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(RunDir(base_run).checkpoint(10), RunDir(tmp_path).checkpoint(10))
    config = small_config(corpus, Grid(), {"run.stop_at_step": 12})
    for _ in range(2):
        ((code, _),) = pool.run(tampering.resume_with, 1, config, tmp_path, "moments of zero")
        assert code == 65
    with pytest.raises(JobFailedError, match="2 starts went on from .*step_0000010 and failed before they saved"):
        pool.run(worlds.train, 1, config, tmp_path, "auto")
    launch(pool, config, tmp_path, "must")
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 13}), tmp_path, "auto")
    assert not RunDir(tmp_path).resume_failures.exists()
