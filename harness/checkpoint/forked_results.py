"""The queue that Megatron's writer of a checkpoint puts its result into, made of one pipe from a forked process."""

from __future__ import annotations

import multiprocessing
import queue
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any


class ForkedResults:
    """What a forked writer returns."""

    def __init__(self) -> None:
        self._receiving, self._sending = multiprocessing.get_context("fork").Pipe(duplex=False)
        self._received: list[Any] = []

    def put(self, value: Any) -> None:  # noqa: ANN401 (Megatron's type)
        """Called in the writer's process."""
        self._sending.send(value)

    def get_nowait(self) -> Any:  # noqa: ANN401 (Megatron's type)
        """Called in this process, after `wait`."""
        if not self._received:
            raise queue.Empty
        return self._received.pop()

    def only_receive(self) -> None:
        """Called in this process when the writer has its own end: then its death ends the pipe."""
        self._sending.close()

    def has_come(self) -> bool:
        """Whether the result can be read."""
        return bool(self._received) or self._receiving.poll()

    def wait(self, process: BaseProcess) -> None:
        """Takes the result in: a writer whose result is larger than a pipe ends only when it is read."""
        with suppress(EOFError):  # it died, and Megatron finds nothing to take
            self._received.append(self._receiving.recv())
        process.join()
