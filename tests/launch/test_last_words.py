"""What is learnt from workers before they are killed: a real py-spy on a real process, a pipe as torch makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.launch.last_words import collect, find_py_spy, remove_pipes, stacks_path

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
        collect(tmp_path, {3: process.pid}, said.append)
        process.kill()
    assert said == []
    assert "waits_for_the_others (<string>:" in stacks_path(tmp_path, 3).read_text()


def test_without_py_spy_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    collect(tmp_path, {0: 1}, said.append, py_spy=())
    assert said == ["no stacks: py-spy is not installed here; `pip install 'harness[stacks]'` for the next time"]


def test_py_spy_that_fails_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    fails = (sys.executable, "-c", "print('Error: Operation not permitted'); raise SystemExit(1)")
    collect(tmp_path, {0: 1}, said.append, py_spy=fails)
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
    (tmp_path / "flight_recorder").mkdir()

    def answers() -> None:
        os.set_blocking(reader, True)
        if os.read(reader, 8) == b"1":
            (tmp_path / "flight_recorder" / "rank_1").touch()

    rank_1 = threading.Thread(target=answers)
    os.set_blocking(reader, True)
    writer = os.open(f"{pipes}1.pipe", os.O_WRONLY)  # so that the reader waits
    rank_1.start()
    collect(tmp_path, {0: 1, 1: 2, 2: 3}, [].append, pipes=pipes, py_spy=())
    rank_1.join()
    os.close(writer)
    os.close(reader)
    assert (tmp_path / "flight_recorder" / "rank_1").exists()
    remove_pipes(pipes, range(4))
    remove_pipes(None, range(4))
    assert list(tmp_path.glob("*.pipe")) == []
