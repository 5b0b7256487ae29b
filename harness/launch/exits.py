"""Exit codes of several workers, combined into one (pure)."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import (
    EXIT_BAD_DATA,
    EXIT_FINISHED,
    EXIT_INTERNAL,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
    EXIT_USAGE,
)
from harness.run.launches import Failure

AGREED_EXITS = frozenset((EXIT_FINISHED, EXIT_REQUEUE, EXIT_NEEDS_PERSON, EXIT_STOPPED_BY_PERSON))
"""Exit codes with which all ranks leave together by agreement."""
EXPLAINED_EXITS = frozenset((EXIT_USAGE, EXIT_BAD_DATA))
"""Exit codes of a rank that has written the reason in one message."""


@dataclass(frozen=True, kw_only=True)
class WorkerExit:
    """The end of a worker."""

    rank: int
    return_code: int
    """Exit code, or minus the number of the signal that killed it."""
    time: float = 0.0
    """Time at which the launcher noticed, in seconds since 1970."""
    told: str | None = None
    """The end in words, if the launcher itself ended it."""

    @property
    def failed(self) -> bool:
        """Return whether it ended in a way on which the ranks would not have agreed."""
        return self.return_code not in AGREED_EXITS

    @property
    def exit_code(self) -> int:
        """Exit code of `harness train` for this end."""
        known = self.return_code in AGREED_EXITS or self.return_code in EXPLAINED_EXITS
        return self.return_code if known else EXIT_INTERNAL

    def __str__(self) -> str:
        """Return the end in words: `rank 3 was killed by SIGKILL`."""
        if self.told is not None:
            return self.told
        if self.return_code >= 0:
            return f"rank {self.rank} left with exit code {self.return_code}"
        number = -self.return_code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        cause = ": by a person, the scheduler, or the kernel for want of memory" if number == signal.SIGKILL else ""
        return f"rank {self.rank} was killed by {name}{cause}"


def root_failure(ended: Sequence[WorkerExit]) -> WorkerExit | None:
    """Return the failure that caused the other ones; None if no worker failed.

    A killed worker closes its neighbours' connections. An error with an exit code of its own says more than an internal
    one, which may be only a lost connection.
    """
    return min((end for end in ended if end.failed), key=_weight, default=None)


def first_cause(failures: Sequence[Failure]) -> Failure | None:
    """Return the failure on one of several nodes that caused the other ones, by the same rule; None without one."""
    return min(failures, key=_weight, default=None)


def _weight(failure: WorkerExit | Failure) -> tuple[int, float, bool, int]:
    """Return a key by which the failure comes first that others follow from.

    A library that loses its connections may end its process by SIGABRT, which is therefore no better than an error.
    """
    code = failure.return_code
    is_killed = code < 0 and code != -signal.SIGABRT
    kind = 0 if is_killed else 1 if code in EXPLAINED_EXITS else 2
    return kind, failure.time, code >= 0, failure.rank or 0
