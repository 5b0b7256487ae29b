"""Commands in processes of their own that halt in the middle of writing, until a test lets them go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 120
TOKENS = "data_prep.channels.indexed_writer:PartWriter:add_documents"
TEXT = "data_prep.corpus.outcome:Outcome:keep"
GATED = """
import importlib, sys, time
from pathlib import Path
from harness.cli import run

gate, number = Path(sys.argv[1]), int(sys.argv[2])
module, owner, method = sys.argv[3].split(":")
writer = getattr(importlib.import_module(module), owner)
write, num_calls = getattr(writer, method), 0

def write_and_wait(*arguments, **named):
    global num_calls
    write(*arguments, **named)
    num_calls += 1
    if num_calls == number:
        gate.with_suffix(".reached").touch()
        while not gate.exists():
            time.sleep(0.01)

setattr(writer, method, write_and_wait)
sys.exit(run(sys.argv[4:]))
"""


class Halted:
    """A command that halts."""

    def __init__(self, process: subprocess.Popen[str], gate: Path) -> None:
        self.process = process
        self._gate = gate

    def go_on(self) -> tuple[int, str]:
        """Its exit code and all that it says."""
        self._gate.touch()
        text, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, text


@contextmanager
def halted(folder: Path, *arguments: object, at: int = 1, after: str = TOKENS) -> Iterator[Halted]:
    """Runs `harness` with these arguments up to the `at`-th time that it has written documents."""
    gate = folder / "gate"
    command = [sys.executable, "-c", GATED, str(gate), str(at), after, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            began = time.monotonic()
            while not gate.with_suffix(".reached").exists():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < began + PATIENCE_S
                time.sleep(0.01)
            yield Halted(process, gate)
        finally:
            process.kill()
