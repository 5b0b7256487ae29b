"""The policy: from the detector's verdicts to at most one action. A pure function and its inputs.

Of 71 spikes in seven real runs all ended by themselves within 65 steps, so a spike alone causes no rollback, however
high it is. Rolled back are episodes that last, losses that are not finite, episodes right after a resume, and episodes
that evidence traces to dirty documents. The samples around the onset are then skipped: 200 steps at first, and more if
it comes again (PaLM skipped 200 to 500 batches, GLM-130B 200).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.config.operation import WatchConfig
from harness.run.checkpoints.manifest import Health
from harness.watch.verdict import ALARMS, TOTAL, OpenEpisode, Verdict


@dataclass(frozen=True, kw_only=True)
class KnownCheckpoint:
    """A checkpoint that a rollback could return to."""

    step: int
    health: Health


@dataclass(frozen=True, kw_only=True)
class PastRollback:
    """A rollback that was carried out."""

    at_step: int
    """The step that training had reached."""
    start: int
    """First step of the episode that caused it."""
    to_step: int


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of the policy after one more step."""

    step: int
    verdicts: tuple[Verdict, ...] = ()
    """Verdicts of the detector at this step."""
    episodes: tuple[OpenEpisode, ...] = ()
    """Episodes that are open after it."""
    checkpoints: tuple[KnownCheckpoint, ...] = ()
    rollbacks: tuple[PastRollback, ...] = ()
    """Rollbacks of this run, oldest first."""
    resumed_after_step: int | None = None
    """Step from which the newest launch or rollback went on."""
    handled_starts: frozenset[int] = frozenset()
    """Starts of the episodes for which an alert, a rollback or a stop was made since the newest resume."""
    dirty_starts: frozenset[int] = frozenset()
    """Starts of the episodes whose evidence points to dirty documents."""


@dataclass(frozen=True)
class KeepTraining:
    """No action."""


@dataclass(frozen=True)
class AskEvidence:
    """Ask the run for evidence about the samples of these steps."""

    first_step: int
    last_step: int


@dataclass(frozen=True)
class Alert:
    """Alert people; the run goes on."""

    text: str
    start: int
    """First step of the episode."""


@dataclass(frozen=True)
class Rollback:
    """Return to a checkpoint, and skip some samples for good."""

    to_step: int
    skip_steps: tuple[int, int]
    """First and last step whose samples are skipped."""
    learning_rate_factor: float
    """1 keeps the learning rate."""
    reason: str
    start: int
    """First step of the episode."""
    adam_betas: tuple[float, float] | None = None
    """None keeps the betas."""


@dataclass(frozen=True)
class Stop:
    """Leave with exit code 76, because a person is needed."""

    reason: str
    start: int
    """First step of the episode."""


Action = KeepTraining | AskEvidence | Alert | Rollback | Stop


@dataclass(frozen=True)
class _Cause:
    """The reason for a rollback."""

    text: str
    start: int
    end: int
    dirty: bool
    after_resume: bool = False
    blocks_run: bool = False
    """True if the run cannot go on without a command."""


def decide(situation: Situation, settings: WatchConfig) -> Action:
    """Return the action after this step."""
    cause = _cause_of_rollback(situation, settings)
    if cause is not None:
        action = _roll_back(cause, situation, settings)
        if settings.action == "rollback" or isinstance(action, KeepTraining):
            return action
        return Alert(
            f"{action.reason}. With `watch.action: rollback` the watcher would {_in_words(action)}", cause.start
        )
    for verdict in situation.verdicts:
        if verdict.kind == "confirmed" and verdict.start not in situation.handled_starts:
            return AskEvidence(verdict.start, verdict.end)
    for verdict in situation.verdicts:
        if verdict.kind == "drift":
            moved = f"{verdict.direction}: {verdict.height:+.3f} nats at step {verdict.step}"
            return Alert(f"loss of {verdict.channel} drifts {moved}.", verdict.start)
    return KeepTraining()


def checkpoints_to_suspect(
    checkpoints: Iterable[KnownCheckpoint], verdicts: Iterable[Verdict], settings: WatchConfig
) -> tuple[int, ...]:
    """Return the steps of the clean checkpoints that were saved during an alarm or within the margin after it."""
    alarms = [verdict for verdict in verdicts if verdict.kind in ALARMS]
    return tuple(
        checkpoint.step
        for checkpoint in checkpoints
        if checkpoint.health == "clean"
        and any(a.start <= checkpoint.step <= a.end + settings.rollback_margin_steps for a in alarms)
    )


def _cause_of_rollback(situation: Situation, settings: WatchConfig) -> _Cause | None:
    """Return the first reason for a rollback that was not acted upon yet."""
    for verdict in situation.verdicts:
        if verdict.kind == "non-finite" and verdict.start not in situation.handled_starts:
            what = "loss or gradient" if verdict.channel == TOTAL else f"loss of {verdict.channel}"
            text = f"{what} is not finite at step {verdict.step}"
            dirty = verdict.start in situation.dirty_starts
            return _Cause(text, verdict.start, verdict.end, dirty, blocks_run=True)
    for episode in situation.episodes:
        if not episode.confirmed or episode.start in situation.handled_starts:
            continue
        dirty = episode.start in situation.dirty_starts
        moved = f"loss of {episode.channel} went {episode.direction} at step {episode.start}"
        if _after_resume(episode, situation, settings):
            return _Cause(f"{moved}, right after a resume", episode.start, episode.end, dirty, after_resume=True)
        if dirty:
            return _Cause(f"{moved}, on dirty documents", episode.start, episode.end, dirty)
        if situation.step - episode.start >= settings.persist_steps and _still_off(episode, settings):
            return _Cause(f"{moved} and has not come back", episode.start, episode.end, dirty)
    return None


def _after_resume(episode: OpenEpisode, situation: Situation, settings: WatchConfig) -> bool:
    resumed = situation.resumed_after_step
    return (
        resumed is not None and episode.direction == "up" and resumed < episode.start <= resumed + settings.verify_steps
    )


def _still_off(episode: OpenEpisode, settings: WatchConfig) -> bool:
    off = episode.recent_z if episode.direction == "up" else -episode.recent_z
    return off >= settings.persist_z


def _roll_back(cause: _Cause, situation: Situation, settings: WatchConfig) -> Rollback | Stop | KeepTraining:
    """Return the rollback for a cause, or what is done in its place."""
    past = situation.rollbacks
    may_wait = not (cause.after_resume or cause.blocks_run)
    if past and may_wait and situation.step - past[-1].to_step < settings.cool_down_steps:
        return KeepTraining()
    num_recent = sum(rollback.at_step > situation.step - settings.budget_steps for rollback in past)
    if num_recent >= settings.max_rollbacks:
        budget = f"{settings.max_rollbacks} rollbacks in {settings.budget_steps} steps"
        return Stop(f"{cause.text}; the budget of {budget} is used up", cause.start)
    repeats = [rollback for rollback in past if abs(rollback.start - cause.start) <= settings.same_place_steps]
    latest = cause.start - settings.rollback_margin_steps
    if cause.after_resume and situation.resumed_after_step is not None:
        latest = min(latest, situation.resumed_after_step - 1)
    targets = [each.step for each in situation.checkpoints if each.health == "clean" and each.step <= latest]
    if not targets:
        return Stop(f"{cause.text}; there is no clean checkpoint at or before step {latest}", cause.start)
    is_gentler = bool(repeats) and not cause.dirty
    return Rollback(
        to_step=max(targets),
        skip_steps=_skipped_steps(cause, max(targets), len(repeats), settings),
        learning_rate_factor=settings.repeat_learning_rate_factor if is_gentler else 1.0,
        reason=cause.text,
        start=cause.start,
        adam_betas=settings.repeat_adam_betas if is_gentler else None,
    )


def _skipped_steps(cause: _Cause, to_step: int, num_repeats: int, settings: WatchConfig) -> tuple[int, int]:
    """Return first and last step whose samples are skipped."""
    num_steps = min(settings.skip_steps * 2**num_repeats, settings.most_skip_steps)
    first = max(cause.start - settings.skip_lead_steps, to_step + 1)
    last = max(first + num_steps - 1, min(cause.end, first + settings.most_skip_steps - 1))
    return first, last


def _in_words(action: Rollback | Stop) -> str:
    if isinstance(action, Rollback):
        first, last = action.skip_steps
        return f"return to step {action.to_step} and skip the samples of steps {first} to {last}."
    return "stop the run for a person."
