"""Runs an iterator in a thread, a few items ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Generator[Item, None, None], num_items: int = 2) -> Iterator[Iterator[Item]]:
    """Give the items of another iterator, with up to `num_items` of them prepared in advance.

    An error in the iterator is raised when its turn comes. Leaving the `with` ends the thread, between two items, and
    closes the iterator.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def taken() -> Iterator[Item]:
        # Each call takes one item; an empty list is the end.
        ready = deque(thread.submit(list, islice(items, 1)) for _ in range(num_items))
        while item := ready.popleft().result():
            ready.append(thread.submit(list, islice(items, 1)))
            yield from item

    try:
        yield taken()
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
