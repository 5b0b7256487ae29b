"""A command that is killed leaves no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from texts import ENGLISH

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")


def test_no_worker_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    for name in "abcd":
        lines = (json.dumps({"text": f"{ENGLISH} {number}"}) + "\n" for number in range(4000))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    arguments = ("data", "clean", ".", "--output", "out", "--workers", "2")
    command = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *arguments], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    process = psutil.Process(command.pid)
    deadline = time.monotonic() + 60
    begun: list[psutil.Process] = []
    while len(begun) < 4:  # the server of forks, datatrove's manager and two workers
        assert command.poll() is None and time.monotonic() < deadline
        begun = process.children(recursive=True)
        time.sleep(0.05)
    command.send_signal(signal.SIGKILL)
    command.wait()
    _, alive = psutil.wait_procs(begun, timeout=20)
    assert alive == []
