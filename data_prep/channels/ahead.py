"""Runs an iterator in a thread, a few items ahead of the one who uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
_END = object()


class Ahead(Generic[Item]):
    """Iterates over what another iterator yields, of which up to `num_items` are ready before they are asked for.

    An error in the iterator is raised when its turn comes. `close` (or leaving the `with`) ends the thread, between two
    items, and waits for it.
    """

    def __init__(self, items: Generator[Item, None, None], num_items: int = 2) -> None:
        self._items = items
        self._ready: queue.Queue[object] = queue.Queue(num_items)
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ahead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        while (item := self._ready.get()) is not _END:
            yield item  # type: ignore[misc] # the queue holds items and the end only
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Ends the thread; closing twice is harmless."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                if self._closing.is_set():
                    return
                self._ready.put(item)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that uses the items
            self._error = error
        finally:
            self._items.close()
            self._ready.put(_END)
