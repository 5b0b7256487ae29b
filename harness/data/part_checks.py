"""Checks parts in a thread of this rank before their turn comes. Every part belongs to one rank, which alone reads it.

A part is read once. Afterwards two stat calls, when its turn comes near and then every few seconds, tell whether its
files have changed; only then are they read again. What an earlier launch has read is known from the run's directory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import xxhash

from harness.data.files.checked import CheckStoppedError, UsedPart, check_part, states_of
from harness.disk_errors import may_pass
from harness.errors import DataError
from harness.run.checked_parts import CheckedPart, CheckedParts, FileState

_LOOK_EVERY_S = 10.0
_NICENESS = 10
"""Lets every other thread go first."""
_JOIN_S = 5.0
_AGAIN_AFTER_S = (1.0, 4.0, 15.0, 40.0)
"""Pauses between reads of a part that cannot be read: a shared file system may fail for a minute, and come back."""

Key = tuple[str, str]
"""Names of channel and part."""
States = tuple[FileState | None, FileState | None]


def owner_of(part: UsedPart, num_ranks: int) -> int:
    """Return the rank that reads a part; any two ranks have about equally many."""
    return xxhash.xxh3_64_intdigest("\0".join(part.key).encode()) % num_ranks


class PartChecks:
    """The checks of the parts that belong to one rank. Its methods are for one thread."""

    def __init__(
        self,
        vocab_size: int,
        *,
        rank: int,
        num_ranks: int,
        earlier: CheckedParts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without anything to check; `earlier` is what this run has read in earlier launches."""
        self._vocab_size = vocab_size
        self._rank = rank
        self._num_ranks = num_ranks
        self._clock = clock
        self._known: dict[Key, CheckedPart] = dict(earlier)
        self._wanted: dict[Key, UsedPart] = {}
        self._to_look_at: set[Key] = set()
        self._findings: dict[Key, CheckedPart | DataError] = {}
        self._seen: dict[Key, States] = {}
        self._untold: set[Key] = set()
        self._next_look = clock() + _LOOK_EVERY_S
        self._is_closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.num_read = 0
        """Parts that this rank has read."""

    def want(self, parts: Sequence[UsedPart]) -> None:
        """Check these parts, the first one first, those of this rank alone. Others need not be checked any more."""
        own = {part.key: part for part in parts if owner_of(part, self._num_ranks) == self._rank}
        with self._changed:
            self._to_look_at |= own.keys() - self._wanted.keys()
            self._wanted = own
            self._changed.notify()
        if own and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="part-checks", daemon=True)
            self._thread.start()

    def know(self, checked: CheckedParts) -> None:
        """Take over what another thread has read a moment ago."""
        with self._changed:
            self._known.update(checked)

    def has_news(self) -> bool:
        """Return whether there is a finding that `tell` has not returned yet.

        Raises:
            Exception: The thread has failed, for another reason than what is on the disk.
        """
        if self._failure is not None:
            raise self._failure
        return bool(self._untold)

    def tell(self, keys: Collection[Key]) -> dict[Key, CheckedPart | DataError]:
        """Return the findings about parts of this rank among these, and count them as told."""
        with self._changed:
            self._untold -= set(keys)
            return {key: self._findings[key] for key in keys if key in self._findings}

    def close(self) -> None:
        """End the thread, also in the middle of a part."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            self._check_all()
        except CheckStoppedError:
            pass
        except Exception as error:  # noqa: BLE001 (it ends the rank, which would else wait for this thread for ever)
            self._failure = error

    def _check_all(self) -> None:
        while (part := self._next()) is not None:
            states = states_of(part.part)
            finding = self._finding(part)
            with self._changed:
                self._findings[part.key] = finding
                self._seen[part.key] = states
                self._untold.add(part.key)

    def _finding(self, part: UsedPart) -> CheckedPart | DataError:
        """Check a part, and again later if it is the disk that fails."""
        pauses_s = iter(_AGAIN_AFTER_S)
        while True:
            try:
                return self._check(part)
            except DataError as error:
                pause_s = next(pauses_s, None)
                if pause_s is None or not may_pass(error):
                    return error
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, pause_s)

    def _next(self) -> UsedPart | None:
        """Return the next part to look at, and wait until there is one; None at the end."""
        with self._changed:
            while not self._is_closed:
                if self._clock() >= self._next_look:
                    self._to_look_at |= self._wanted.keys()
                    self._next_look = self._clock() + _LOOK_EVERY_S
                for key, part in self._wanted.items():
                    if key in self._to_look_at:
                        self._to_look_at.discard(key)
                        if self._seen.get(key) != states_of(part.part):
                            return part
                self._changed.wait(max(0.0, self._next_look - self._clock()))
        return None

    def _check(self, part: UsedPart) -> CheckedPart:
        known = self._known.get(part.key)
        expected = part.part.xxh3
        if known is not None and expected in (None, known.bin.xxh3) and states_of(part.part) == known.states:
            return known
        self.num_read += 1
        found = check_part(part, self._vocab_size, before=known, is_stopped=lambda: self._is_closed)
        with self._changed:
            self._known[part.key] = found
        return found
