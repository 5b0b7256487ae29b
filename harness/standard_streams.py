"""Standard streams that nobody holds at the other end, or that several processes share."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def open_standard_streams() -> None:
    """Open streams that the caller has closed on the null device. Else the next opened file would get the output."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def label_lines(label: str) -> None:
    """Begin each line of standard output and standard error with a label, if it is not empty.

    Processes that append to one file stay apart in it, line by line. What libraries write past Python has no label.
    """
    if not label:
        return
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        labelled = _Labelled(stream.fileno(), label.encode())
        setattr(sys, name, io.TextIOWrapper(labelled, "utf-8", "backslashreplace", write_through=True))


class _Labelled(io.RawIOBase):
    """Writes whole lines to a descriptor, each behind a label and at once, so that no other process comes between."""

    def __init__(self, descriptor: int, label: bytes) -> None:
        self._descriptor = descriptor
        self._label = label
        self._begun: dict[int, bytes] = {}
        """Beginnings of lines, by thread: `print` writes the end of a line by itself."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, content: ReadableBuffer, /) -> int:
        added, thread = bytes(content), threading.get_ident()
        *lines, begun = (self._begun.pop(thread, b"") + added).split(b"\n")
        if begun:
            self._begun[thread] = begun
        if lines:
            os.write(self._descriptor, b"".join(self._label + line + b"\n" for line in lines))
        return len(added)

    def close(self) -> None:
        if not self.closed:
            with suppress(OSError):
                for begun in self._begun.values():
                    os.write(self._descriptor, self._label + begun + b"\n")
            self._begun.clear()
        super().close()


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
