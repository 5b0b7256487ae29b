"""A request for the stacks of a launch's workers: an empty file in its folder, for which its launchers look.

Its time of change distinguishes `launches/0003/stacks.request` from an earlier request. The request does the workers no
harm. The launchers answer it, because workers that hang cannot.
"""

from __future__ import annotations

from pathlib import Path

_NAME = "stacks.request"


def request_stacks(launch: Path) -> float:
    """Ask the launchers of this launch for the stacks of its workers; return the time of the request, since 1970.

    Raises:
        OSError: The file cannot be written.
    """
    request = launch / _NAME
    request.unlink(missing_ok=True)
    request.touch()
    return request.stat().st_mtime


def last_request(launch: Path) -> float | None:
    """Return the time of the last request for stacks in seconds since 1970, or None."""
    try:
        return (launch / _NAME).stat().st_mtime
    except OSError:
        return None
