"""What the ends of several workers mean together (pure)."""

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

AGREED_EXITS = frozenset((EXIT_FINISHED, EXIT_REQUEUE, EXIT_NEEDS_PERSON, EXIT_STOPPED_BY_PERSON))
"""Exit codes with which all ranks leave together, because they agreed to."""
ERROR_EXITS = frozenset((EXIT_USAGE, EXIT_BAD_DATA, EXIT_INTERNAL))
"""Exit codes of a rank that failed by itself."""
TOLD_EXITS = frozenset((EXIT_USAGE, EXIT_BAD_DATA))
"""Exit codes of a rank that has said why in one message."""


@dataclass(frozen=True, kw_only=True)
class WorkerExit:
    """How a worker ended."""

    rank: int
    return_code: int
    """Exit code, or minus the number of the signal that killed it."""

    @property
    def failed(self) -> bool:
        """Whether it ended in any other way than all ranks would have agreed on."""
        return self.return_code not in AGREED_EXITS

    @property
    def exit_code(self) -> int:
        """The exit code of `harness train` that stands for it."""
        known = self.return_code in AGREED_EXITS or self.return_code in ERROR_EXITS
        return self.return_code if known else EXIT_INTERNAL

    def __str__(self) -> str:
        """For people: `rank 3 was killed by SIGKILL`."""
        if self.return_code >= 0:
            return f"rank {self.rank} left with exit code {self.return_code}"
        number = -self.return_code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        cause = ": by a person, the scheduler, or the kernel for want of memory" if number == signal.SIGKILL else ""
        return f"rank {self.rank} was killed by {name}{cause}"


def culprit(ended: Sequence[WorkerExit]) -> WorkerExit | None:
    """Of workers that ended one because of another, the one whose failure explains the others'; None if none failed.

    A worker that was killed takes its neighbours' connections with it, and an error that has an exit code of its own
    says more than an internal one, which may be no more than a lost connection.
    """
    failed = [end for end in ended if end.failed]
    return min(failed, key=lambda end: (end.return_code >= 0, end.exit_code == EXIT_INTERNAL, end.rank), default=None)
