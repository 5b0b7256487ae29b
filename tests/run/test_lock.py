from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import RunInUseError, UsageError
from harness.run import lock as lock_module
from harness.run.lock import RunLock, last_owner_of, owner_of
from harness.run.paths import RunDir

HOLDS_LOCK = """
import sys, time
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import RunLock
lock = RunLock(RunDir(Path(sys.argv[1])), job_id="4711")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
lock.release()
print("released", flush=True)
"""

PASSES_LOCK_ON = """
import subprocess, sys
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import RunLock
lock = RunLock(RunDir(Path(sys.argv[1])))
lock.acquire()
worker = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], pass_fds=[lock.descriptor])
worker.wait()
"""

TAKES_LOCK_FROM_PARENT = """
import os, sys
from pathlib import Path
from harness.run.paths import RunDir
from harness.run.lock import RunLock
lock = RunLock(RunDir(Path(sys.argv[1])))
lock.acquire()
print("worker", os.getpid(), lock.descriptor, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def holder(run_dir: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    yield from started("held", HOLDS_LOCK, str(run_dir.root))


def started(first_word: str, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:1] == [first_word]
        yield process
        process.kill()


def wait_until(condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_second_trainer_is_refused_and_told_who_is_there(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(RunInUseError) as caught:
        RunLock(run_dir).acquire()
    text = str(caught.value)
    assert text.startswith(
        f"{run_dir.root} is in use: process {holder.pid} on {os.uname().nodename} (job 4711) since 20"
    )
    assert text.endswith(
        "trains there, and a run has one trainer at a time; "
        f"stop it with `harness signal {run_dir.root} save-and-stop`, or choose another directory with --run-dir"
    )
    assert caught.value.exit_code == 64


def test_an_owner_whose_text_is_lost_still_holds(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    run_dir.lock.write_text("")
    with pytest.raises(RunInUseError, match="is in use: another process trains there"):
        RunLock(run_dir).acquire()


def test_a_killed_owner_holds_no_longer(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    owner = owner_of(run_dir)
    assert owner is not None
    assert owner.pid == holder.pid
    holder.kill()
    holder.wait()
    assert owner_of(run_dir) is None
    assert last_owner_of(run_dir) == owner
    with RunLock(run_dir):
        assert last_owner_of(run_dir) != owner


def test_a_released_lock_names_nobody(run_dir: RunDir, holder: subprocess.Popen[str]) -> None:
    holder.communicate("")
    assert owner_of(run_dir) is None
    assert last_owner_of(run_dir) is None


def test_looking_whether_it_is_held_does_not_keep_a_trainer_out(run_dir: RunDir) -> None:
    run_dir.lock.touch()
    looking = os.open(run_dir.lock, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)

    class Lock(RunLock):
        def _lock(self, descriptor: int) -> bool:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sleeps = [lambda _: os.close(looking)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lock_module.time, "sleep", lambda s: sleeps.pop()(s))
                return super()._lock(descriptor)

    with Lock(run_dir):
        assert owner_of(run_dir) is not None


def test_the_process_that_holds_it_may_take_it_again(run_dir: RunDir) -> None:
    with RunLock(run_dir) as first:
        with RunLock(run_dir) as second:
            assert second.descriptor is None
        assert first.descriptor is not None
        assert owner_of(run_dir) is not None
    assert owner_of(run_dir) is None


def test_a_lock_passed_on_is_held_by_the_worker_even_if_its_launcher_is_killed(run_dir: RunDir) -> None:
    for launcher in started("worker", PASSES_LOCK_ON, str(run_dir.root), TAKES_LOCK_FROM_PARENT):
        launcher.kill()
        launcher.wait()
        owner = owner_of(run_dir)
        assert owner is not None
        assert owner.pid == launcher.pid
        with pytest.raises(RunInUseError):
            RunLock(run_dir).acquire()
        assert launcher.stdin is not None
        launcher.stdin.close()  # the orphaned worker reads from it too, and now leaves
        wait_until(lambda: owner_of(run_dir) is None)


def test_a_later_process_with_the_pid_of_the_owner_is_not_the_owner(run_dir: RunDir) -> None:
    with RunLock(run_dir):
        text = run_dir.lock.read_text()
        owner = last_owner_of(run_dir)
        assert owner is not None
        assert owner.process is not None
        run_dir.lock.write_text(text.replace(owner.process, "another boot:1"))
        with pytest.raises(RunInUseError):
            RunLock(run_dir).acquire()


def test_a_missing_run_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        RunLock(RunDir(tmp_path / "gone")).acquire()
    assert str(caught.value) == (
        f"cannot lock the run directory {tmp_path / 'gone'}: No such file or directory; it must exist and be writable, "
        "choose another one with --run-dir"
    )


def test_where_the_file_system_has_no_locks_training_goes_on_unprotected(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with RunLock(run_dir) as lock:
        expected = f"the file system of {run_dir.root} has no locks (Function not implemented)"
        assert lock.unprotected_reason == expected


def test_nobody_holds_a_lock_that_does_not_exist(run_dir: RunDir) -> None:
    assert owner_of(run_dir) is None
    assert last_owner_of(run_dir) is None
