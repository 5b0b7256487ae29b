"""A thread of rank 0 that does in files what training asks for, in that order, so that no step waits for a file system.

A run has two. Its desk records, answers commands and publishes; its housekeeping, which may take minutes, marks and
removes checkpoints. What an act raises that must end the run is raised again at the next call of the training thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Act = Callable[[], object]
T = TypeVar("T")

MOST_WAITING = 10_000
"""Acts that wait at most. A step hands over a few: training waits when a file system has not answered for thousands of
steps."""


class Desk:
    """Acts in files, one after the other, beside training. The thread begins with the first act."""

    def __init__(self, name: str) -> None:
        self._acts: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def hand(self, act: Act) -> None:
        """Let the thread do something, after all that it was handed before. An act may hand over acts: they come first.

        Raises:
            BaseException: The first that an earlier act raised since the last call. This act is done all the same.
        """
        if threading.current_thread() is self._thread:
            act()
            return
        self._put(lambda: self._try(act))
        self._raise_problem()

    def begin(self, act: Callable[[], T]) -> Future[T]:
        """Let the thread do something as `hand` does, and return what will be its result or its error."""
        future: Future[T] = Future()
        self._put(lambda: _into(future, act))
        return future

    def do(self, act: Callable[[], T]) -> T:
        """Let the thread do something as `hand` does, wait for it, and return its result.

        Raises:
            BaseException: What it raised, or the first that an earlier act raised since the last call.
        """
        if threading.current_thread() is self._thread:
            return act()
        future = self.begin(act)
        future.exception()  # waits
        self._raise_problem()
        return future.result()

    def settle(self) -> None:
        """Wait until everything that was handed over is done.

        Raises:
            BaseException: The first that an act raised since the last call.
        """
        if self._thread.is_alive():
            self.do(lambda: None)

    def close(self) -> None:
        """Do what is left, and end the thread.

        Raises:
            BaseException: As `settle` does.
        """
        if self._thread.is_alive():
            self._acts.put(None)
            self._thread.join()
        self._raise_problem()

    def _put(self, act: Callable[[], None]) -> None:
        if self._thread.ident is None:
            self._thread.start()
        assert self._thread.is_alive(), "it was closed"
        self._acts.put(act)

    def _run(self) -> None:
        while (act := self._acts.get()) is not None:
            act()

    def _try(self, act: Act) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 (it is raised where training can end)
            self._problem = self._problem or error

    def _raise_problem(self) -> None:
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem


def _into(future: Future[T], act: Callable[[], T]) -> None:
    try:
        future.set_result(act())
    except BaseException as error:  # noqa: BLE001 (whoever asked for the result gets it)
        future.set_exception(error)
