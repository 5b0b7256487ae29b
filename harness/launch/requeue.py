"""The decision after the end of a launch: requeue the job, or stop (pure).

A launch that saved something new may be requeued without limit. One that saved nothing is requeued only a few times:
three failures at the same place will be followed by a fourth, and each one occupies the nodes for as long as a start.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.config.operation import LaunchConfig
from harness.errors import (
    EXIT_BAD_DATA,
    EXIT_FINISHED,
    EXIT_INTERNAL,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
    EXIT_USAGE,
)
from harness.run.launches import LaunchEnd


class Action(StrEnum):
    """The decision about the job."""

    REQUEUE = "requeue"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision about the job, with its reason for people."""

    action: Action
    alert: bool
    """True if a person must look."""
    reason: str


_FINAL = {
    EXIT_FINISHED: Verdict(action=Action.STOP, alert=False, reason="finished"),
    EXIT_STOPPED_BY_PERSON: Verdict(action=Action.STOP, alert=False, reason="stopped by a person"),
    EXIT_NEEDS_PERSON: Verdict(action=Action.STOP, alert=True, reason="stopped, a person must look at the run"),
    EXIT_USAGE: Verdict(action=Action.STOP, alert=True, reason="wrong usage or configuration"),
    EXIT_BAD_DATA: Verdict(action=Action.STOP, alert=True, reason="bad data or checkpoint"),
}
"""Exit codes after which no restart helps, whatever happened before."""
QUIET_EXITS = (EXIT_FINISHED, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON)
"""Exit codes of launches in which nothing went wrong."""


class Taken(StrEnum):
    """The future of a job whose nodes were taken away."""

    CANCELLED = "the job was cancelled, or preempted by Slurm"
    REQUEUED = "requeued by Slurm, or by a person"
    """Slurm starts it again by itself."""


def decide_resume(history: Sequence[LaunchEnd], settings: LaunchConfig, *, taken: Taken | None = None) -> Verdict:
    """Return the decision about a job after its last launch.

    Args:
        history: The launches of this job, oldest first, at least one. A job that a person submits starts a new history.
        settings: Says after how many launches without progress to give up.
        taken: What becomes of a job that a person or Slurm took the nodes from, who decide; None if nobody did.
    """
    assert history, "a decision needs a launch that ended"
    last = history[-1]
    if last.exit_code in _FINAL:
        return _FINAL[last.exit_code]
    if taken is not None:
        action = Action.REQUEUE if taken is Taken.REQUEUED else Action.STOP
        return Verdict(action=action, alert=False, reason=taken)
    cause = ending_text(last.exit_code)
    if last.progressed:
        return Verdict(action=Action.REQUEUE, alert=False, reason=f"{cause}; it had saved something new")
    in_vain = list(itertools.takewhile(lambda end: not end.progressed, reversed(history)))
    num_failures = sum(not end.was_cut_short for end in in_vain)
    times = "1 launch" if len(in_vain) == 1 else f"{len(in_vain)} launches in a row"
    counted = f"{cause}; nothing new was saved in {times}, {num_failures} of them failures"
    if num_failures >= (most := settings.max_failures_without_progress):
        return Verdict(action=Action.STOP, alert=True, reason=f"{counted} (at most {most} failures)")
    if len(in_vain) >= (most := settings.max_launches_without_progress):
        return Verdict(action=Action.STOP, alert=True, reason=f"{counted} (at most {most} launches)")
    return Verdict(action=Action.REQUEUE, alert=False, reason=counted)


def ending_text(exit_code: int | None) -> str:
    """Return in words how a launch ended; None is the code of one that left no word."""
    if exit_code is None:
        return "the job was killed or requeued from outside"
    if exit_code in _FINAL:
        return _FINAL[exit_code].reason
    if exit_code == EXIT_REQUEUE:
        return "stopped before the end, to be continued"
    if exit_code == EXIT_INTERNAL:
        return "failed with an internal error"
    if exit_code > 128:
        return f"killed by signal {exit_code - 128}"
    return f"failed with exit code {exit_code}"
