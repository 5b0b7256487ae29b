"""Collects information from workers that no longer respond: their stacks, and their last collectives.

```
launches/0003/stacks_rank_00001.txt    the Python stacks of a rank, by py-spy, without help of the process
              flight_recorder/rank_1   the last collectives of a rank (NCCL), written by torch on request
```
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.launch.collectives_dump import FLIGHT_RECORDER
from harness.launch.workers import ALL_HAVE_ASKED_S, KillSwitch, write_to_stderr
from harness.run.files import replace_file
from harness.run.launch_requests import kill_reason, stacks_requested

STACKS = "stacks_rank_*.txt"
_STACKS_PATIENCE_S = 15.0
_DUMP_PATIENCE_S = 5.0


def collect(
    folder: Path,
    workers: Mapping[int, int],
    show: Callable[[str], None],
    *,
    pipes: str | None = None,
    py_spy: Sequence[str] | None = None,
) -> None:
    """Write down the activity of this node's workers. Failures are reported to people and never raised.

    `workers` has the process id of each rank, `pipes` the prefix of the pipes by which torch is asked for collectives.
    `py_spy` is by default the installed one.
    """
    asked = _ask_for_collectives(pipes, workers)
    py_spy = find_py_spy() if py_spy is None else py_spy
    if py_spy:
        _write_stacks(folder, workers, py_spy, show)
    else:
        show("no stacks: py-spy is not installed here; `pip install 'harness[stacks]'` for the next time")
    if asked:
        _wait_for_dumps(folder / FLIGHT_RECORDER, asked)


def switch_for(launch: Path, *, pipes: str | None = None, num_nodes: int = 1) -> KillSwitch:
    """Return the kill switch of a launch: its workers are examined and killed by request files in its folder."""
    return KillSwitch(
        reason=lambda: kill_reason(launch),
        asked=lambda: stacks_requested(launch),
        collect=lambda workers: collect(launch, workers, write_to_stderr, pipes=pipes),
        others_learn_s=ALL_HAVE_ASKED_S if num_nodes > 1 else 0.0,
    )


def find_py_spy() -> tuple[str, ...]:
    """Return the command of py-spy, beside the interpreter or on the path; empty if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    return (found,) if found else ()


def stacks_path(folder: Path, rank: int) -> Path:
    """Return the file of a rank's stacks."""
    return folder / STACKS.replace("*", f"{rank:05d}")


def remove_pipes(pipes: str | None, ranks: Iterable[int]) -> None:
    """Remove the pipes that torch left behind on this node."""
    for rank in ranks if pipes else ():
        with suppress(OSError):
            Path(f"{pipes}{rank}.pipe").unlink()


def _write_stacks(folder: Path, workers: Mapping[int, int], py_spy: Sequence[str], show: Callable[[str], None]) -> None:
    running = {
        rank: subprocess.Popen(
            (*py_spy, "dump", "--nonblocking", "--pid", str(pid)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for rank, pid in workers.items()
    }
    deadline = time.monotonic() + _STACKS_PATIENCE_S
    for rank, process in running.items():
        try:
            said, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            said += f"py-spy did not end within {_STACKS_PATIENCE_S:g} s\n"
        try:
            replace_file(stacks_path(folder, rank), said, durable=False)
        except OSError as error:
            show(f"warning: cannot write {stacks_path(folder, rank)}: {error.strerror}")
        if process.returncode != 0:
            show(f"warning: no stacks of rank {rank}: {(said.strip() or 'py-spy failed').splitlines()[-1]}")


def _ask_for_collectives(pipes: str | None, workers: Mapping[int, int]) -> list[int]:
    """Ask every rank for its last collectives by its pipe, `<pipes><rank>.pipe`; return the ranks that listen."""
    asked = []
    for rank in workers if pipes else ():
        try:
            pipe = os.open(f"{pipes}{rank}.pipe", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no NCCL here, or nobody reads any more
            continue
        try:
            os.write(pipe, b"1")
            asked.append(rank)
        except OSError:
            continue
        finally:
            os.close(pipe)
    return asked


def _wait_for_dumps(folder: Path, ranks: Sequence[int]) -> None:
    """Wait for the dumps, for a limited time: a stopped rank writes none."""
    deadline = time.monotonic() + _DUMP_PATIENCE_S
    while time.monotonic() < deadline and not all((folder / f"rank_{rank}").exists() for rank in ranks):
        time.sleep(0.1)
