"""The time of a run, and where it went: steps that count, steps that were repeated, starts, and waits.

Goodput is the share of the time since the run was first submitted in which it made steps that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from harness.run.event_types import Exit, LaunchEnded, Resumed, RolledBack, Started
from harness.run.events import kinds_of, read_events
from harness.run.launches import LaunchRecord, started_launches
from harness.run.paths import RunDir
from harness.run_state.records_by_time import last_record_before

_KINDS = kinds_of(Started, Resumed, Exit, LaunchEnded, RolledBack)
Told = Started | Resumed | Exit | LaunchEnded | RolledBack


@dataclass(frozen=True, kw_only=True)
class Session:
    """One launch of a run. Times are in seconds since 1970."""

    asked: float
    """Time at which it was submitted, or could have begun because the one before had ended."""
    begun: float
    trained_from: float | None
    """Time of its first step; None if it made none."""
    ended: float
    first_step: int
    """Step from which it went on."""
    last_step: int
    """Last step that it made."""
    rolled_back: int = 0
    """Steps that it left behind by rollbacks."""


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """The time of a run, in seconds."""

    total_s: float
    """Since it was first submitted, up to its end or to now."""
    waited_s: float
    """In the queue, and between launches."""
    started_s: float
    """From the beginning of launches to their first step."""
    repeated_s: float
    """For steps that were made again, because they had not been saved or were rolled back."""

    @property
    def trained_s(self) -> float:
        """Return the time for steps that count, with their saves and evaluations."""
        return max(0.0, self.total_s - self.waited_s - self.started_s - self.repeated_s)

    @property
    def goodput(self) -> float | None:
        """Return the share of the time for steps that count; None for a run without time."""
        return self.trained_s / self.total_s if self.total_s > 0 else None


def time_spent(sessions: Sequence[Session]) -> TimeSpent:
    """Return where the time of a run's launches went, oldest first (pure)."""
    waited = started = repeated = 0.0
    for number, session in enumerate(sessions):
        waited += max(0.0, session.begun - session.asked)
        begun_to_train = session.ended if session.trained_from is None else session.trained_from
        started += max(0.0, begun_to_train - session.begun)
        num_steps = session.last_step - session.first_step + session.rolled_back
        if session.trained_from is None or num_steps <= 0:
            continue
        following = next((each for each in sessions[number + 1 :] if each.trained_from is not None), None)
        unsaved = 0 if following is None else max(0, session.last_step - max(following.first_step, session.first_step))
        share = min(1.0, (unsaved + session.rolled_back) / num_steps)
        repeated += share * max(0.0, session.ended - session.trained_from)
    total = sessions[-1].ended - sessions[0].asked if sessions else 0.0
    return TimeSpent(total_s=max(0.0, total), waited_s=waited, started_s=started, repeated_s=repeated)


def sessions_of(run_dir: RunDir, now: float, *, is_running: bool) -> list[Session]:
    """Return the launches of a run that have started, oldest first. The last one goes on up to now if it runs.

    Raises:
        UsageError: Their folder cannot be read.
    """
    known = started_launches(run_dir)
    told = [event for event in read_events(run_dir.events, kinds=_KINDS) if isinstance(event, Told)]
    found: list[Session] = []
    for number, launch in enumerate(known):
        begun = launch.begun
        until = known[number + 1].begun if number + 1 < len(known) else now
        events = [event for event in told if begun - 1 <= event.time < until]
        is_last = number + 1 == len(known)
        before = found[-1].ended if found else None
        ends_at = now if is_last and is_running else None
        found.append(_session(run_dir, launch, events, (begun, until), _asked(launch, begun, before), ends_at))
    return found


def _session(
    run_dir: RunDir,
    launch: LaunchRecord,
    events: Sequence[Told],
    span: tuple[float, float],
    asked: float,
    ends_at: float | None,
) -> Session:
    """Return one launch, from its events and the last record in its span of time."""
    begun, until = span
    starts = [event for event in events if isinstance(event, Started | Resumed)]
    ends = [event for event in events if isinstance(event, Exit | LaunchEnded)]
    record = last_record_before(run_dir.metrics, until) if starts else None
    has_stepped = record is not None and record.time >= begun
    last_step = record.step if record is not None and has_stepped else starts[-1].step if starts else 0
    known_end = max((event.time for event in ends), default=None)
    ended = ends_at if ends_at is not None else known_end
    if ended is None:
        ended = record.time if record is not None and has_stepped else begun
    back = (event for event in events if isinstance(event, RolledBack))
    return Session(
        asked=min(asked, begun),
        begun=begun,
        trained_from=starts[0].time if starts else None,
        ended=max(ended, begun),
        first_step=starts[0].step if starts else 0,
        last_step=last_step,
        rolled_back=sum(max(0, (event.from_step or event.step) - event.step) for event in back),
    )


def _asked(launch: LaunchRecord, begun: float, before: float | None) -> float:
    """Return when a launch could have begun: when the one before ended, or when the first one was submitted."""
    if before is not None:
        return before
    if launch.submission is not None and launch.submission.submitted is not None:
        with suppress(ValueError):
            return datetime.strptime(launch.submission.submitted, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    return begun
