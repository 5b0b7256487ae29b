"""The log that the ranks of a node share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.launch.local import worker_starts
from harness.launch.node_log import label_of, last_lines
from harness.launch.workers import run_workers
from harness.parallel.environment import NodePlace

WRITES = """
import os, sys, threading
from harness.parallel.environment import log_label
from harness.standard_streams import label_lines
label_lines(log_label())
def write(name):
    for number in range(200):
        print(f"{name} line {number} " + "x" * 300)
threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.stderr.write("a half")
sys.stderr.write(" and the other half\\ntwo lines\\nat once")
"""


def test_lines_of_ranks_stay_whole_and_tell_their_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = NodePlace(index=0, count=1, master_address="127.0.0.1", master_port=1)
    starts = worker_starts((sys.executable, "-c", WRITES), place, 4, tmp_path, on_gpu=False, further={})
    assert run_workers(starts) == 0
    assert capfd.readouterr().out.count(" line ") == 400
    lines = (tmp_path / "node_0.log").read_text().splitlines()
    for rank in (1, 2, 3):
        own = [line.removeprefix(f"[rank {rank}] ") for line in lines if line.startswith(f"[rank {rank}] ")]
        assert own[-3:] == ["a half and the other half", "two lines", "at once"]
        written = sorted(own[:-3])
        assert written == sorted(f"{name} line {number} " + "x" * 300 for name in "ab" for number in range(200))
    assert len(lines) == 3 * 403


def test_the_last_lines_of_a_rank_are_its_own(tmp_path: Path) -> None:
    log = tmp_path / "node_0.log"
    log.write_text("of rank 0\n[rank 1] first\n[rank 10] no\nNCCL WARN\n[rank 1] last\n[rank 2] no\nof rank 0\n")
    assert last_lines(log, 1) == ["first", "last"]
    assert last_lines(log, 10) == ["no"]
    assert last_lines(log, 3) == ["of rank 0", "NCCL WARN", "of rank 0"]  # died before it could write one
    log.write_text("".join(f"[rank {number % 2}] {number}\n" for number in range(300_000)))
    assert last_lines(log, 1) == [str(number) for number in range(299_941, 300_000, 2)]


def test_the_stack_of_an_interpreter_that_crashed_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "node_0.log"
    body = (
        "import ctypes\nfrom harness.standard_streams import label_lines\n"
        "label_lines('[rank 1] ')\nprint('before')\nctypes.string_at(0)"
    )
    with log.open("w") as file:
        file.write("[rank 2] unconcerned\n")
        file.flush()
        command = (sys.executable, "-X", "faulthandler", "-c", body)
        ended = subprocess.run(command, stdout=file, stderr=file, check=False, env=os.environ)
    assert ended.returncode == -signal.SIGSEGV
    assert last_lines(log, 1)[:2] == ["before", "Fatal Python error: Segmentation fault"]
    assert last_lines(log, 2) == ["unconcerned", *last_lines(log, 1)[1:]]  # nobody knows whose it is


def test_a_label_names_the_rank() -> None:
    assert label_of(12) == "[rank 12] "
