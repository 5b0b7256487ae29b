"""The log of a node, `launches/0001/node_0.log`: its ranks append to it, each line behind the label of its rank.

    [rank 9] harness: error: the learning rate is not finite

Lines without a label are those of rank 0 and of the launcher, and what a library or a dying interpreter wrote past
Python.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOST_LINES = 30
_MOST_BYTES = 2**20
"""Bytes at the end of a log that are looked through."""
_CRASH = "Fatal Python error"
"""Beginning of what an interpreter writes that dies of a signal such as SIGSEGV (faulthandler)."""
_LABELLED = re.compile(r"\[rank [0-9]+\] ")


def label_of(rank: int) -> str:
    """Return what a rank writes before each of its lines."""
    return f"[rank {rank}] "


def last_lines(log: Path, rank: int) -> list[str]:
    """Return the last lines of a rank, without their label; those without one if it has written none.

    Where an interpreter died, the lines without a label that follow those of the rank are its last words, too.

    Raises:
        OSError: The log cannot be read.
    """
    label = label_of(rank)
    lines = [line for line in _end_of(log) if line.startswith(label) or not _LABELLED.match(line)]
    labelled = [number for number, line in enumerate(lines) if line.startswith(label)]
    if labelled:
        after = lines[labelled[-1] + 1 :]
        died = any(line.startswith(_CRASH) for line in after)
        lines = [lines[number] for number in labelled] + (after if died else [])
    return [line.removeprefix(label) for line in lines[-_MOST_LINES:]]


def _end_of(log: Path) -> list[str]:
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MOST_BYTES))
        return file.read().decode(errors="replace").splitlines()
