"""What the campaigns share, the fuzzer and that of faults: where they play, their forks, and what they say."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path


def memory() -> Path | None:
    """Return the folder of a file system in memory, if there is one: nothing that is played shall wear out a disk."""
    folder = Path("/dev/shm")  # noqa: S108 (a folder of its own is made in it)
    return folder if folder.is_dir() else None


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def forked(play: Callable[[], object]) -> int:
    """Call a function in a fork, which ends with it: with 0, or with 1 after an exception. Returns its number."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        play()
        code = 0
    except BaseException:  # noqa: BLE001 (the fork must not return)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
