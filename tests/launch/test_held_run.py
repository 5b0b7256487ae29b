"""A start that finds what is left of an earlier launch waits for it, and then asks for another try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import EXIT_REQUEUE, EXIT_USAGE, RunEndingError, RunInUseError
from harness.launch.held_run import held
from harness.run.lock import RunLock
from harness.run.paths import RunDir

LAUNCHER = """
import subprocess, sys
from pathlib import Path
from harness.run.lock import RunLock
from harness.run.paths import RunDir
lock = RunLock(RunDir(Path(sys.argv[1])), "4711")
lock.acquire()
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=(lock.descriptor,))
print("held", flush=True)
sys.stdin.read() if len(sys.argv) > 2 else None
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.make_folders()
    return run


def remains(run_dir: RunDir, *arguments: str) -> subprocess.Popen[str]:
    """A launcher whose child has inherited the lock; without arguments it has ended, and its child lives on."""
    command = [sys.executable, "-c", LAUNCHER, str(run_dir.root), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    if not arguments:
        process.wait()
    return process


def test_what_is_left_of_an_earlier_launch_is_waited_for(run_dir: RunDir) -> None:
    process, told, naps = remains(run_dir), [], []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        assert process.stdin is not None
        if not process.stdin.closed:
            process.stdin.close()  # the child ends

    with held(RunLock(run_dir), told.append, sleep=nap) as lock:
        assert lock.descriptor is not None
    assert naps
    assert process.stdout is not None
    process.stdout.close()
    (text,) = told
    assert text.startswith(
        f"waiting up to 60 s: {run_dir.root} is still held by processes of an earlier launch (process "
    )
    assert "(job 4711)" in text


def test_what_does_not_end_asks_for_another_try(run_dir: RunDir) -> None:
    process = remains(run_dir)
    taking = held(RunLock(run_dir), lambda text: None, patience_s=0.0)
    with pytest.raises(RunEndingError, match="is still held by processes of an earlier launch") as caught, taking:
        raise AssertionError
    assert caught.value.exit_code == EXIT_REQUEUE
    process.communicate("")


def test_a_launcher_that_lives_is_not_waited_for(run_dir: RunDir) -> None:
    process = remains(run_dir, "lives")
    taking = held(RunLock(run_dir), lambda text: None)
    with pytest.raises(RunInUseError, match="is in use: process") as caught, taking:
        raise AssertionError
    assert caught.value.exit_code == EXIT_USAGE
    process.communicate("")
