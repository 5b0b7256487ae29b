"""The queue for the result of Megatron's checkpoint writer, made from one pipe to a forked process.

If the system gives no process or no pipe, the writer works in this process, and the queue is a list.
"""

from __future__ import annotations

import errno
import multiprocessing
import queue
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from harness.checkpoint.counted import Records
from harness.checkpoint.go_ahead import GoAhead
from harness.checkpoint.stillness import Stillness

MAX_FORKS = 3
BEGINS_WITHIN_S = 15.0
"""Time for a forked process to begin. Usually that takes milliseconds, on a very busy machine a second or two."""
MAX_STILL_S = 120.0
"""A writer that does nothing for this long, and waits for no disk, waits for a lock that is never released."""
_LOOK_EVERY_S = 1.0


class _Result(NamedTuple):
    """The message of a writer at its end."""

    value: Any
    records: Records
    measured: list[float]


class ForkedResults:
    """The results of a forked writer.

    `measure` computes something of the state that is written, in the process that writes it.
    """

    def __init__(self, measure: Callable[[], list[float]] = list) -> None:
        self.records: Records = {}
        """Records of the files that were written, when the result was read."""
        self.measured: list[float] = []
        """Result of `measure`, when the result was read; empty after an error."""
        self._measure = measure
        self._received: list[_Result] = []
        self._receiving: Connection | None = None
        self._sending: Connection | None = None
        """Only in the writer's process."""

    def fork(self, write: Callable[[], None], after: Callable[[], None] | None = None) -> BaseProcess:
        """Fork a process that calls `write`, which puts its result here. Returns when the process has begun.

        With `after`, the process writes once that has returned, which is called here, in a thread: the process may not
        touch a GPU.

        A fork can fail to begin. Python 3.11 waits in it for a lock of the interpreter that a thread of a communication
        library may have held at that moment, and that is never released there. It is killed, and another one is forked.

        Raises:
            OSError: No process or no pipe is available. Then `write` may run in this process.
        """
        if after is None:
            return self._begun(write)
        go_ahead = GoAhead()
        try:
            process = self._begun(partial(self._write_after, go_ahead, write))
        except OSError:
            go_ahead.drop()
            raise
        go_ahead.give_after(after)
        return process

    def put(self, value: Any, records: Records) -> None:  # noqa: ANN401 (Megatron's type)
        """Add a result, with the records of the files. The writer calls this."""
        result = _Result(value, records, self._measure())
        if self._sending is not None:
            self._sending.send(result)
        else:
            self._received.append(result)

    def put_measured(self) -> None:
        """Measure where nothing is written."""
        self.measured = self._measure()

    def get_nowait(self) -> Any:  # noqa: ANN401 (Megatron's type)
        """Return a result in this process, after `wait`."""
        if not self._received:
            raise queue.Empty
        result = self._received.pop()
        self.records |= result.records
        self.measured = result.measured
        return result.value

    def has_come(self) -> bool:
        """Return whether the result can be read."""
        return bool(self._received) or (self._receiving is not None and self._receiving.poll())

    def wait(self, process: BaseProcess) -> None:
        """Receive the result, then join the process: a writer with a result larger than a pipe ends only then."""
        if self._receiving is not None:
            self._received.extend(_result_of(process, self._receiving))
        process.join()

    def _begun(self, write: Callable[[], None]) -> BaseProcess:
        """Return a process that has begun, or died."""
        for _ in range(MAX_FORKS):
            process = self._forked(write)
            if process is not None:
                return process
        raise OSError(errno.EDEADLK, f"{MAX_FORKS} forked processes did not begin within {BEGINS_WITHIN_S:.0f} s")

    def _write_after(self, go_ahead: GoAhead, write: Callable[[], None]) -> None:
        if go_ahead.is_given():
            write()
        else:
            self.put(OSError(errno.EIO, "the copy of the state from the device failed"), {})

    def _forked(self, write: Callable[[], None]) -> BaseProcess | None:
        """Return a process that has begun, or died; None if it did not begin."""
        context = multiprocessing.get_context("fork")
        receiving, self._sending = context.Pipe(duplex=False)
        process = context.Process(target=self._begin, args=(write,))
        try:
            process.start()
        except OSError:
            receiving.close()
            raise
        finally:
            self._sending.close()  # the writer has its own end: its death ends the pipe
            self._sending = None
        if not receiving.poll(BEGINS_WITHIN_S):
            process.kill()
            process.join()
            receiving.close()
            return None
        with suppress(EOFError):
            receiving.recv()
        self._receiving = receiving
        return process

    def _begin(self, write: Callable[[], None]) -> None:
        assert self._sending is not None, "this is the process that was forked"
        self._sending.send(None)
        torch.set_num_threads(1)  # the threads among which it would divide work stayed behind in the parent
        write()


def _result_of(process: BaseProcess, receiving: Connection) -> Iterator[_Result]:
    """Yield the writer's result; an error if it had to be killed; nothing if it died.

    Megatron reports the last.
    """
    stillness = Stillness(process.pid)
    while not receiving.poll(_LOOK_EVERY_S):
        if stillness.seconds() > MAX_STILL_S:
            process.kill()
            error = TimeoutError(errno.ETIMEDOUT, f"its writer stood still for {MAX_STILL_S:.0f} s and was killed")
            yield _Result(error, {}, [])
            return
    with suppress(EOFError):
        yield receiving.recv()
