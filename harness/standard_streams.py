"""Standard streams that nobody holds at the other end: closed by the caller, or no longer read."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open streams that the caller has closed on the null device. Else the next opened file would get the output."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def drop_unread_output() -> None:
    """Drop output that nobody reads. To be called right before the process leaves with its exit code.

    Python flushes the streams once more at its end, and leaves with 120 if that fails.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with open(os.devnull, "wb") as null:  # noqa: PTH123 (a device)
                os.dup2(null.fileno(), stream.fileno())
