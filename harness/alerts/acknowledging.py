"""Somebody takes care of alerts."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Sequence

from harness.alerts.alert import RunName
from harness.alerts.book import Bookkeeping, Rules
from harness.alerts.book_file import changing
from harness.errors import UsageError
from harness.run.paths import RunDir

ALL = "all"


def acknowledge(run_dir: RunDir, keys: Sequence[str]) -> list[str]:
    """Enter that this user takes care of the alerts with these keys, `all` for every one; return their keys.

    Raises:
        UsageError: One of them is not open, or the book cannot be changed.
    """
    who = f"{_user()} on {socket.gethostname()} at {time.strftime('%Y-%m-%d %H:%M:%S')}"
    try:
        with changing(run_dir) as (book, _):
            wanted = list(book.things) if ALL in keys else list(dict.fromkeys(keys))
            if missing := [key for key in wanted if key not in book.things]:
                open_ones = ", ".join(book.things) or "none"
                raise UsageError(f"no alert {missing[0]!r} is open in {run_dir.root}; open are: {open_ones}")
            run = RunName(name="", folder=str(run_dir.root))
            return Bookkeeping(book, run, Rules(), (), time.time()).acknowledge(wanted, who)
    except OSError as error:
        raise UsageError(
            f"{run_dir.alert_book} cannot be changed: {error.strerror}; only the user who trains may acknowledge"
        ) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"
