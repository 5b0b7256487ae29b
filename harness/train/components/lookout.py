"""A thread of rank 0 that looks for commands beside training, so that no step waits for the folder."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from harness.run.commands.command import Command
from harness.run.commands.mailbox import Mailbox

_LOOK_EVERY_S = 1.0
"""Time between two looks if no step asks for one."""
_SHARE_OF_LOOKS = 0.05
"""Share of the time that looks may take: where a look takes long, there are fewer."""
_LONGEST_PAUSE_S = 5.0


class Lookout:
    """The mailbox of a run, looked into beside training. The thread begins with the first `take`."""

    def __init__(self, mailbox: Mailbox, clock: Callable[[], float] = time.monotonic) -> None:
        self._mailbox = mailbox
        self._clock = clock
        self._lock = threading.Lock()
        """Held by whoever uses the mailbox."""
        self._found: deque[Command] = deque()
        self._problem: Exception | None = None
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def take(self) -> list[Command]:
        """Return the commands that were found since the last call, and ask for a look. Does not wait for a file.

        Raises:
            Exception: What the last look raised.
        """
        if self._thread.ident is None:
            self._thread.start()
        self._wanted.set()
        if self._problem is not None:
            raise self._problem
        return self._taken()

    def look(self) -> list[Command]:
        """Look now, and return all commands that were found since the last call."""
        with self._lock:
            self._found += self._mailbox.poll()
        return self._taken()

    def acknowledge(self, command: Command, outcome: Mapping[str, object]) -> None:
        """Answer a command, as `Mailbox.acknowledge` does."""
        with self._lock:
            self._mailbox.acknowledge(command, outcome)

    def close(self) -> None:
        """End the thread, after a look that it may be at."""
        self._ended.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _taken(self) -> list[Command]:
        return [self._found.popleft() for _ in range(len(self._found))]

    def _run(self) -> None:
        while not self._ended.is_set():
            began = self._clock()
            try:
                with self._lock:
                    self._found += self._mailbox.poll()
            except Exception as error:  # noqa: BLE001 (it is raised where training can end)
                self._problem = error
                return
            took_s = self._clock() - began
            self._ended.wait(min(took_s * (1 / _SHARE_OF_LOOKS - 1), _LONGEST_PAUSE_S))
            self._wanted.wait(_LOOK_EVERY_S)
            self._wanted.clear()
