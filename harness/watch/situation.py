"""Converts the watcher's state into the policy's input, and the policy's action into a request (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.run.commands import requests
from harness.run.commands.requests import MAX_EVIDENCE_STEPS
from harness.watch.policy import KnownCheckpoint, Rollback, Situation
from harness.watch.saved import SavedCheckpoint
from harness.watch.saved_state import Alarm, WatchState
from harness.watch.verdict import OpenEpisode, Verdict

COMPARED_STEPS = 16
"""Number of steps before the onset that are examined too: they give the losses of ordinary samples with the same
weights."""
_MOST_EXAMINED = 32
_MOST_ALARMS = 1000


def situation(
    state: WatchState,
    verdicts: Sequence[Verdict],
    episodes: Sequence[OpenEpisode],
    checkpoints: Sequence[KnownCheckpoint],
) -> Situation:
    """Return the policy's input after the last record."""
    return Situation(
        step=state.step,
        verdicts=tuple(verdicts),
        episodes=tuple(episodes),
        checkpoints=tuple(checkpoints),
        rollbacks=tuple(state.causes.values()),
        resumed_after_step=state.resumed_after_step,
        handled_starts=frozenset(state.handled_starts),
        dirty_starts=frozenset(state.dirty_starts),
    )


def rollback_request(action: Rollback, repeat_for_steps: int) -> requests.Rollback:
    """Return the request for a rollback. It names samples by their steps, as the run has counted until now."""
    changes_optimizer = action.learning_rate_factor != 1.0 or action.adam_betas is not None
    return requests.Rollback(
        to_step=action.to_step,
        skip_steps=action.skip_steps,
        learning_rate_factor=action.learning_rate_factor,
        adam_betas=action.adam_betas,
        for_steps=repeat_for_steps if changes_optimizer else None,
    )


def evidence_request(first: int, last: int, step: int) -> requests.Evidence:
    """Return the request to examine an episode, with some steps before it to compare with."""
    last = max(first, min(last, step, first + _MOST_EXAMINED - 1))
    begin = max(1, first - COMPARED_STEPS, last - MAX_EVIDENCE_STEPS + 1)
    return requests.Evidence(steps=(begin, last))


def remember_alarm(state: WatchState, start: int, end: int) -> None:
    """Enter steps with an alarm. If they touch one of the last alarms, they extend it."""
    for alarm in state.alarms[-20:]:
        if alarm.start <= end and start <= alarm.end:
            alarm.start, alarm.end = min(alarm.start, start), max(alarm.end, end)
            return
    state.alarms = [*state.alarms, Alarm(start=start, end=end)][-_MOST_ALARMS:]


def due_mark(
    checkpoints: Sequence[SavedCheckpoint],
    state: WatchState,
    *,
    is_quiet: bool,
    margin_steps: int,
    clean_after_steps: int,
) -> tuple[str, requests.Mark] | None:
    """Return name and request of the command that corrects the health of checkpoints; None if every health is right.

    A checkpoint is suspect if it was saved in an alarm or within the margin after it. It is clean again when no episode
    is open and there was no alarm for `clean_after_steps`: a run that recovered by itself would recover again from
    there. Then the alarms are forgotten.
    """
    if not state.alarms:
        return None
    newest = max(state.alarms, key=lambda alarm: alarm.end)
    is_over = is_quiet and state.step - newest.end >= max(clean_after_steps, margin_steps)
    health: Literal["clean", "suspect"] = "clean" if is_over else "suspect"
    names = [
        each.name
        for each in checkpoints
        if each.step <= state.step
        and each.health == ("suspect" if is_over else "clean")
        and any(alarm.start <= each.step <= alarm.end + margin_steps for alarm in state.alarms)
    ]
    if not names:
        if is_over:
            state.alarms = []
        return None
    name = f"watch-{health}-{state.attempt:03d}-{newest.start:07d}-{names[-1]}"
    return name, requests.Mark(checkpoints=tuple(names), health=health)
