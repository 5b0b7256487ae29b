"""A prefetcher: prepares values in a thread before they are needed, for keys whose order is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Prefetcher(Generic[Key, Value]):
    """Prepares the values of the keys that follow the last one.

    If an unexpected key is requested (after a rollback), all prepared values are dropped. An error in the preparation
    of a value is raised when that value is requested. `close` waits for the value that is being prepared.
    """

    def __init__(
        self,
        prepare: Callable[[Key], Value],
        following: Callable[[Key], Key],
        num_ahead: int,
        begin_thread: Callable[[], None] | None = None,
    ) -> None:
        """Prepare nothing yet. With 0 values ahead no thread is used; `begin_thread` is called first in it."""
        self._prepare = prepare
        self._following = following
        self._num_ahead = num_ahead
        self._pending: deque[tuple[Key, Future[Value]]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefetch", initializer=begin_thread)
        self._is_closed = False

    def get(self, key: Key) -> Value:
        """Return the value of `key`, and begin to prepare those that follow."""
        if self._is_closed:
            raise RuntimeError("the prefetcher is closed")
        if self._num_ahead == 0:
            return self._prepare(key)
        if self._pending and self._pending[0][0] != key:
            self._discard()
        if not self._pending:
            self._submit(key)
        _, value = self._pending.popleft()
        while len(self._pending) < self._num_ahead:
            key = self._following(self._pending[-1][0] if self._pending else key)
            self._submit(key)
        return value.result()

    def close(self) -> None:
        """Stop the thread. Further `get` calls are refused; closing twice is harmless."""
        self._is_closed = True
        self._discard()
        self._executor.shutdown(wait=True)

    def _submit(self, key: Key) -> None:
        self._pending.append((key, self._executor.submit(self._prepare, key)))

    def _discard(self) -> None:
        for _, value in self._pending:
            value.cancel()
        self._pending.clear()
