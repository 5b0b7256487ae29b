"""The files and connections that a process of a large job has open at once."""

from __future__ import annotations

import resource
import socket

from harness.errors import HarnessError

OTHERS = 1024
"""Files beside the connections: libraries, data, logs, and the connections within groups."""


_ENOUGH = 2**20
"""A higher limit is not asked for: programs that close all files that there could be would take minutes."""


def raise_limit() -> None:
    """Let this process open as many files as the system lets it; it begins with 1,024 on many systems."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def require_room_for(connections: int) -> None:
    """Raise the limit for a process that serves so many others.

    Raises:
        HarnessError: The system does not let it open as many files.
    """
    raise_limit()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHERS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise HarnessError(
            f"rank 0 serves {connections:,} ranks and needs {needed:,} open files, but {socket.gethostname()} allows a "
            f"process {hard:,}: raise that limit on the nodes (`ulimit -Hn` shows it; LimitNOFILE of slurmd sets it)"
        )
