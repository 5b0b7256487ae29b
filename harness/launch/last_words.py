"""Collects information from workers that no longer respond: their stacks, and their last collectives.

```
launches/0003/stacks_node_00001.txt              the Python stacks of a node's ranks, by py-spy, without help of the
                                                 processes: each behind a line `==== rank 8 ====`
              flight_recorder/node_00001.tar     the last collectives of its ranks (NCCL), written by torch on request
```
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.launch.node_files import NodeFiles
from harness.launch.workers import ALL_HAVE_ASKED_S, KillSwitch, write_to_stderr
from harness.parallel.environment import NodePlace
from harness.run.files import read_regular, replace_file
from harness.run.launch_requests import kill_reason, stacks_requested

STACKS = "stacks_node_*.txt"
_RANK = re.compile(r"^==== rank ([0-9]{1,9}) ====$", re.MULTILINE)
_MOST_STACK_BYTES = 64 * 2**20
_STACKS_PATIENCE_S = 15.0
_DUMP_PATIENCE_S = 5.0


def collect(
    stacks: Path,
    workers: Mapping[int, int],
    show: Callable[[str], None],
    *,
    files: NodeFiles | None = None,
    pipes: str | None = None,
    py_spy: Sequence[str] | None = None,
) -> None:
    """Write down the activity of this node's workers. Failures are reported to people and never raised.

    `workers` has the process id of each rank, `stacks` is the file for their stacks. `pipes` is the prefix of the pipes
    by which torch is asked for collectives, which `files` gathers. `py_spy` is by default the installed one.
    """
    asked = _ask_for_collectives(pipes, workers)
    py_spy = find_py_spy() if py_spy is None else py_spy
    if py_spy:
        _write_stacks(stacks, workers, py_spy, show)
    else:
        show("no stacks: py-spy is not installed here; `pip install 'harness[stacks]'` for the next time")
    if files is not None:
        _wait_for([dump for rank in asked if (dump := files.dump_of(rank))])


def switch_for(launch: Path, place: NodePlace, files: NodeFiles, *, pipes: str | None = None) -> KillSwitch:
    """Return the kill switch of a node of a launch: its workers are examined and killed by request files there."""
    stacks = stacks_path(launch, place.index)
    return KillSwitch(
        reason=lambda: kill_reason(launch),
        asked=lambda: stacks_requested(launch),
        collect=lambda workers: collect(stacks, workers, write_to_stderr, files=files, pipes=pipes),
        others_learn_s=ALL_HAVE_ASKED_S if place.count > 1 else 0.0,
    )


def find_py_spy() -> tuple[str, ...]:
    """Return the command of py-spy, beside the interpreter or on the path; empty if it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    return (found,) if found else ()


def stacks_path(folder: Path, index: int) -> Path:
    """Return the file of the stacks of node `index`, in the folder of a launch."""
    return folder / STACKS.replace("*", f"{index:05d}")


def stacks_text(stacks: Mapping[int, str]) -> str:
    """Return the content of such a file, from the stacks of each rank."""
    return "".join(f"==== rank {rank} ====\n{text.rstrip()}\n\n" for rank, text in stacks.items())


def read_stacks(path: Path) -> dict[int, str]:
    """Return the stacks of each rank in such a file; none if it cannot be read."""
    try:
        content = read_regular(path, _MOST_STACK_BYTES)
    except OSError:
        return {}
    _, *pieces = _RANK.split(content.decode(errors="replace"))
    return {int(rank): text.strip("\n") for rank, text in zip(pieces[::2], pieces[1::2], strict=True)}


def remove_pipes(pipes: str | None, ranks: Iterable[int]) -> None:
    """Remove the pipes that torch left behind on this node."""
    for rank in ranks if pipes else ():
        with suppress(OSError):
            Path(f"{pipes}{rank}.pipe").unlink()


def _write_stacks(path: Path, workers: Mapping[int, int], py_spy: Sequence[str], show: Callable[[str], None]) -> None:
    stacks = {}
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
        stacks[rank] = said
        if process.returncode != 0:
            show(f"warning: no stacks of rank {rank}: {(said.strip() or 'py-spy failed').splitlines()[-1]}")
    try:
        replace_file(path, stacks_text(stacks), durable=False)
    except OSError as error:
        show(f"warning: cannot write {path}: {error.strerror}")


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


def _wait_for(dumps: Sequence[Path]) -> None:
    """Wait for the dumps, for a limited time: a stopped rank writes none."""
    deadline = time.monotonic() + _DUMP_PATIENCE_S
    while time.monotonic() < deadline and not all(dump.exists() for dump in dumps):
        time.sleep(0.1)
