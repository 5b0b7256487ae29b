"""Output that nobody reads changes no exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.stdin.read()
sys.stdout.write("a line that nobody reads")
{end}
sys.exit(77)
"""
DROP = "from harness.standard_streams import drop_unread_output; drop_unread_output()"


@pytest.mark.parametrize(("end", "expected"), [(DROP, 77), ("", 120)], ids=["dropped", "as Python does it"])
def test_the_exit_code_is_that_of_the_program(end: str, expected: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.close()
    child.stdin.close()
    assert child.wait(60) == expected
