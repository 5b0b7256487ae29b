"""A child process with limits: what it answers, and what becomes of one that goes over them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.limited_child import LimitedError, limited


def reversed_bytes(content: bytes) -> bytes:
    return content[::-1]


def refuses(content: bytes) -> bytes:
    raise ValueError("line 1\nis \x1b[31mred")


def fails(content: bytes) -> bytes:
    raise TypeError("a bug")


def eats(content: bytes) -> bytes:
    return b"x" * 2**31


def loops(content: bytes) -> bytes:
    child = subprocess.Popen(["sleep", "1000"])
    Path(content.decode()).write_text(str(child.pid))
    time.sleep(1000)
    return b""


def aborts(content: bytes) -> bytes:
    os.abort()


def call(function: Callable[[bytes], bytes], content: bytes = b"", seconds: float = 30) -> bytes:
    return limited(function, content, memory_bytes=2**28, seconds=seconds)


def test_it_answers_what_the_function_returns() -> None:
    content = bytes(range(256)) * 10_000
    assert call(reversed_bytes, content) == content[::-1]


def test_any_time_may_be_given() -> None:
    assert call(reversed_bytes, b"ab", seconds=1e12) == b"ba"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (refuses, r"^line 1\\nis \\u001b\[31mred$"),
        (eats, r"needs more than 256.0 MiB of memory"),
        (aborts, "ends the library that reads it with SIGABRT"),
    ],
)
def test_what_goes_wrong_is_one_line(function: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(LimitedError, match=words):
        call(function)


def test_a_bug_is_no_refusal() -> None:
    with pytest.raises(RuntimeError, match="TypeError: a bug"):
        call(fails)


def test_it_works_under_a_limit_of_the_user() -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20)); "
        "from harness.limited_child import limited; from test_limited_child import reversed_bytes; "
        "sys.stdout.buffer.write(limited(reversed_bytes, b'abc', memory_bytes=1 << 40, seconds=60))"
    )
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    own = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, b"cba"), done.stderr


def test_a_child_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(LimitedError, match="takes more than 5 s"):
        call(loops, str(tmp_path / "pid").encode(), seconds=5)
    assert time.monotonic() - started < 20
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "its child lives"
        time.sleep(0.05)
