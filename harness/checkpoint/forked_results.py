"""The queue that Megatron's writer of a checkpoint puts its result into, made of one pipe from a forked process.

Where the system gives no process or no pipe, the writer works in this process, and the queue is a list.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from harness.checkpoint.stillness import Stillness

MAX_STILL_S = 120.0
"""A writer that does nothing for so long, and waits for no disk, waits for a lock that nobody will open: a thread held it
that was not forked along."""
_LOOK_EVERY_S = 1.0


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
            self._received.extend(_result_of(process, self._pipe[0]))
        process.join()


def _result_of(process: BaseProcess, receiving: Connection) -> Iterator[Any]:
    """What the writer has sent; an error if it had to be killed; nothing if it died, and then Megatron says so."""
    stillness = Stillness(process.pid)
    while not receiving.poll(_LOOK_EVERY_S):
        if stillness.seconds() > MAX_STILL_S:
            process.kill()
            yield TimeoutError(errno.ETIMEDOUT, f"its writer stood still for {MAX_STILL_S:.0f} s and was killed")
            return
    with suppress(EOFError):
        yield receiving.recv()
