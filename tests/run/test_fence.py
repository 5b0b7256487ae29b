from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import RunTakenOverError, UsageError
from harness.run import fence as fence_module
from harness.run.fence import claim, reporting_takeover
from harness.run.lock import RunLock
from harness.run.paths import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_numbers_only_grow_and_the_newest_alone_holds(run_dir: RunDir) -> None:
    first = claim(run_dir)
    first.require_held()
    second = claim(run_dir)
    assert (first.token, second.token) == (1, 2)
    second.require_held()
    with pytest.raises(RunTakenOverError) as caught:
        first.require_held()
    assert str(caught.value) == (
        f"{run_dir.root} was taken over by whoever holds token 2, while this process held token 1: it was stopped, or "
        "cut off from the file system, and a run has one trainer at a time. It has published nothing since and leaves. "
        "Nothing is lost: the run goes on there, or `harness train` takes it over again"
    )
    assert caught.value.exit_code == 64
    assert [path.name for path in run_dir.fence.iterdir()] == ["0000002"]


def test_two_that_claim_at_once_get_two_numbers(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence_module, "_tokens", lambda run_dir: [])  # neither sees the other's file
    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(lambda _: claim(run_dir), range(40)))
    assert sorted(fence.token for fence in fences) == list(range(1, 41))


def test_a_fence_whose_folder_is_gone_does_not_hold(run_dir: RunDir) -> None:
    fence = claim(run_dir)
    (run_dir.fence / "0000001").unlink()
    with pytest.raises(RunTakenOverError, match="somebody who removed its fence folder"):
        fence.require_held()


def test_a_file_system_that_does_not_answer_is_no_answer(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = claim(run_dir)

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        fence.require_held()


def test_a_refused_claim_is_a_clear_error(run_dir: RunDir) -> None:
    run_dir.fence.write_text("a file in the way")
    with pytest.raises(UsageError) as caught:
        claim(run_dir)
    assert str(caught.value) == (
        f"cannot take the run directory {run_dir.root}: File exists ({run_dir.fence}). Nothing was started; it must be "
        "writable and have room, choose another one with --run-dir"
    )


def test_a_lock_comes_with_a_fence_that_its_workers_share(run_dir: RunDir) -> None:
    with RunLock(run_dir) as launcher:
        with RunLock(run_dir) as worker:  # held on its behalf
            assert worker.fence == launcher.fence
        launcher.fence.require_held()
    with RunLock(run_dir) as later:
        assert later.fence.token == launcher.fence.token + 1


def test_one_that_was_taken_over_leaves_the_text_of_the_next_owner(run_dir: RunDir) -> None:
    lock = RunLock(run_dir)
    lock.acquire()
    claim(run_dir)  # as if locks reached no further than the machine
    run_dir.lock.write_text("the next owner")
    lock.release()
    assert run_dir.lock.read_text() == "the next owner"


def test_errors_that_come_of_being_taken_over_say_so(run_dir: RunDir) -> None:
    fence = claim(run_dir)
    with pytest.raises(FileNotFoundError), reporting_takeover(fence):
        raise FileNotFoundError("gone")
    with pytest.raises(FileNotFoundError), reporting_takeover(None):
        raise FileNotFoundError("gone")
    claim(run_dir)
    with pytest.raises(RunTakenOverError) as caught, reporting_takeover(fence):
        raise FileNotFoundError("gone")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
