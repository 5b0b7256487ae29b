"""What is learnt from workers before they are killed: a real py-spy on a real process, a pipe as torch makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from harness.launch.last_words import collect, find_py_spy, read_stacks, remove_pipes
from harness.launch.node_files import node_files
from harness.parallel.environment import COLLECTIVES_DUMP
from harness.run.paths import RunDir

WAITS = """
import time
def waits_for_the_others():
    print('ready', flush=True)
    time.sleep(600)
waits_for_the_others()
"""


def test_the_stack_of_a_stopped_process_is_written(tmp_path: Path) -> None:
    with subprocess.Popen((sys.executable, "-c", WAITS), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        said: list[str] = []
        collect(tmp_path / "stacks", {3: process.pid, 9: process.pid}, said.append)
        process.kill()
    assert said == []
    stacks = read_stacks(tmp_path / "stacks")
    assert sorted(stacks) == [3, 9]
    assert all("waits_for_the_others (<string>:" in text for text in stacks.values())
    assert read_stacks(tmp_path / "nothing") == {}


def test_without_py_spy_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    collect(tmp_path / "stacks", {0: 1}, said.append, py_spy=())
    assert said == ["no stacks: py-spy is not installed here; `pip install 'harness[stacks]'` for the next time"]


def test_py_spy_that_fails_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    fails = (sys.executable, "-c", "print('Error: Operation not permitted'); raise SystemExit(1)")
    collect(tmp_path / "stacks", {0: 1}, said.append, py_spy=fails)
    assert said == ["warning: no stacks of rank 0: Error: Operation not permitted"]


def test_py_spy_is_found_beside_the_interpreter_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_py_spy()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_py_spy() == ()
    program = tmp_path / "py-spy"
    program.touch(mode=0o755)
    assert find_py_spy() == (str(program),)


def test_ranks_are_asked_for_their_collectives_where_they_listen(tmp_path: Path) -> None:
    """As torch does: a pipe that is read without waiting, and a dump when there is something in it."""
    pipes = str(tmp_path / "pipe_")
    os.mkfifo(f"{pipes}1.pipe")
    reader = os.open(f"{pipes}1.pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.mkfifo(f"{pipes}2.pipe")  # nobody reads
    dumps: list[Path] = []

    def answers() -> None:
        os.set_blocking(reader, True)
        if os.read(reader, 8) == b"1":
            dumps[0].write_bytes(b"what rank 1 has done")

    rank_1 = threading.Thread(target=answers)
    os.set_blocking(reader, True)
    writer = os.open(f"{pipes}1.pipe", os.O_WRONLY)  # so that the reader waits
    rank_1.start()
    launch = tmp_path / "launch"
    launch.mkdir()
    with node_files(RunDir(tmp_path), launch, 3) as files, files.gathering():
        dumps.append(Path(f"{files.environment[COLLECTIVES_DUMP]}1"))
        collect(tmp_path / "stacks", {0: 1, 1: 2, 2: 3}, [].append, files=files, pipes=pipes, py_spy=())
        assert dumps[0].exists()
    rank_1.join()
    os.close(writer)
    os.close(reader)
    with tarfile.open(launch / "flight_recorder" / "node_00003.tar") as archive:
        assert archive.getnames() == ["rank_1"]
    assert not dumps[0].exists()
    remove_pipes(pipes, range(4))
    remove_pipes(None, range(4))
    assert list(tmp_path.glob("*.pipe")) == []
