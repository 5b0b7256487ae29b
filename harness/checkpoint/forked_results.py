"""The queue that Megatron's writer of a checkpoint puts its result into, made of one pipe from a forked process.

Where the system gives no process or no pipe, the writer works in this process, and the queue is a list.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class ForkedResults:
    """What a forked writer returns."""

    def __init__(self) -> None:
        self._received: list[Any] = []
        self._pipe: tuple[Connection, Connection] | None = None
        """Where it is received, and where it is sent."""
        with suppress(OSError):  # this process may open no more files
            self._pipe = multiprocessing.get_context("fork").Pipe(duplex=False)

    def put(self, value: Any) -> None:  # noqa: ANN401 (Megatron's type)
        """Called by the writer."""
        if self._pipe is not None:
            self._pipe[1].send(value)
        else:
            self._received.append(value)

    def get_nowait(self) -> Any:  # noqa: ANN401 (Megatron's type)
        """Called in this process, after `wait`."""
        if not self._received:
            raise queue.Empty
        return self._received.pop()

    def start(self, process: BaseProcess) -> None:
        """Starts the writer's process.

        Raises:
            OSError: There is none to be had, or nothing to hear from it by. Then the writer may work in this process.
        """
        if self._pipe is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        receiving, sending = self._pipe
        try:
            process.start()
        except OSError:
            self._pipe = None
            receiving.close()
            raise
        finally:
            sending.close()  # the writer has its own end: its death ends the pipe

    def has_come(self) -> bool:
        """Whether the result can be read."""
        return bool(self._received) or (self._pipe is not None and self._pipe[0].poll())

    def wait(self, process: BaseProcess) -> None:
        """Takes the result in: a writer whose result is larger than a pipe ends only when it is read."""
        if self._pipe is not None:
            with suppress(EOFError):  # it died, and Megatron finds nothing to take
                self._received.append(self._pipe[0].recv())
        process.join()
