"""A request for what the workers of a launch are doing: a file in its folder, for which its launchers look.

`launches/0003/stacks.request` is empty; the time at which it was written tells one request from the next. It does the
workers no harm, and they need not answer it themselves: those that hang cannot.
"""

from __future__ import annotations

from pathlib import Path

_NAME = "stacks.request"


def request_stacks(launch: Path) -> float:
    """Asks the launchers of the launch in this folder for the stacks of its workers; returns when, since 1970.

    Raises:
        OSError: The file cannot be written.
    """
    request = launch / _NAME
    request.unlink(missing_ok=True)
    request.touch()
    return request.stat().st_mtime


def last_request(launch: Path) -> float | None:
    """When stacks were last asked for, in seconds since 1970; None if never."""
    try:
        return (launch / _NAME).stat().st_mtime
    except OSError:
        return None
