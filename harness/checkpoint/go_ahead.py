"""A word from this process to one that it forks, which waits for it: what it is to write is there now."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from contextlib import suppress

_THERE, _FAILED = b"there", b"failed"


class GoAhead:
    """One word through a pipe: that what was waited for is there, or that it failed."""

    def __init__(self) -> None:
        self._receiving, self._sending = multiprocessing.get_context("fork").Pipe(duplex=False)

    def give_after(self, wait: Callable[[], None]) -> None:
        """Give the word once `wait` has returned. Waits in a thread of its own; called after the fork."""
        self._receiving.close()
        threading.Thread(target=self._give, args=(wait,), name="copy of the state", daemon=True).start()

    def is_given(self) -> bool:
        """Wait in the forked process; False if what is waited for failed, or if its parent died."""
        self._sending.close()
        try:
            return self._receiving.recv_bytes() == _THERE
        except EOFError:
            return False

    def drop(self) -> None:
        """Close the pipe, if no process was forked."""
        self._receiving.close()
        self._sending.close()

    def _give(self, wait: Callable[[], None]) -> None:
        word = _FAILED
        try:
            wait()
            word = _THERE
        except RuntimeError:  # of the device; training meets it as well
            pass
        with suppress(OSError), self._sending:  # the writer may be gone
            self._sending.send_bytes(word)
