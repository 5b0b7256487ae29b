"""A few processes that are started once and run jobs under one layout after the other.

Starting Python, torch and Megatron costs more than the jobs, so tests share the processes, which are forks of one that
has loaded them; every job starts its own process group of as many ranks as its layout needs and ends it.
"""

from __future__ import annotations

import itertools
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from forkserver import warm_context

Job = Callable[..., Any]
"""Called as `job(rank, world_size, init_method, *arguments)` in every process of the job; must be importable."""

TIMEOUT_S = 240


class JobFailedError(AssertionError):
    """A process of the job raised; its traceback is the message."""


class Pool:
    """`size` processes, and more once a job needs them.

    `run` starts a job on the first few of them and returns what each returned, in rank order.
    """

    def __init__(self, size: int = 4) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()
        self._size = size
        self._start()

    def _start(self) -> None:
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._grow(self._size)

    def _grow(self, size: int) -> None:
        while len(self._workers) < size:
            ours, theirs = warm_context().Pipe()
            process = warm_context().Process(target=_work, args=(theirs,))
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def run(self, job: Job, world_size: int, *arguments: Any) -> list[Any]:
        self._grow(world_size)
        init_method = f"file://{self._folder.name}/rendezvous-{next(self._numbers)}"
        connections = [connection for _, connection in self._workers[:world_size]]
        for rank, connection in enumerate(connections):
            connection.send((job, rank, world_size, init_method, arguments))
        answers = [self._receive(connection) for connection in connections]
        for failed, answer in answers:
            if failed:
                self.close()
                self._folder = tempfile.TemporaryDirectory()
                self._start()  # the others may hang in a collective
                raise JobFailedError(answer)
        return [answer for _, answer in answers]

    def _receive(self, connection: Connection) -> tuple[bool, Any]:
        if not connection.poll(TIMEOUT_S):
            return True, f"no answer within {TIMEOUT_S} s"
        try:
            return connection.recv()
        except EOFError:
            return True, "the process died"

    def close(self) -> None:
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()
        self._folder.cleanup()


def _work(connection: Connection) -> None:
    import faulthandler
    import gc
    import warnings

    faulthandler.enable()  # one that dies says where
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # what was loaded stays; without it, looking for the garbage of a job is quick
    while True:
        # A job's models lie in cycles with their process groups, and each of those has a thread that wakes up a hundred
        # times a second for as long as it is not found to be garbage.
        gc.collect()
        try:
            job, rank, world_size, init_method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((False, job(rank, world_size, init_method, *arguments)))
        except BaseException:  # noqa: BLE001 (sent to the test, which fails with it)
            connection.send((True, f"rank {rank}:\n{traceback.format_exc()}"))
