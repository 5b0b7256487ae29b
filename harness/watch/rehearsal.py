"""Runs detector and policy over one recorded curve, and collects their verdicts and actions.

The recorded run goes on as it did, whatever the policy decides. A checkpoint every 500 steps is assumed.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from harness.config.operation import WatchConfig
from harness.watch.curve import VALUE_SETTINGS
from harness.watch.detector import Detector, LossRecord
from harness.watch.policy import (
    KnownCheckpoint,
    PastRollback,
    Rollback,
    Situation,
    Stop,
    checkpoints_to_suspect,
    decide,
)
from harness.watch.score import Label
from harness.watch.series import SeriesSettings
from harness.watch.verdict import ALARMS, OpenEpisode, Verdict

_SAVE_EVERY_STEPS = 500
_NUM_REMEMBERED = 100
_POLICY = WatchConfig(action="rollback")


@dataclass(frozen=True)
class RehearsedAction:
    """A rollback or a stop that the watcher would have commanded."""

    step: int
    """The step that training had reached."""
    action: Rollback | Stop

    def cost_steps(self, labels: Sequence[Label]) -> int:
        """Return the steps of training that this action costs.

        If a lasting event was the cause, these are the steps from its onset to the command. Otherwise they are those
        that would be repeated and skipped.
        """
        start = self.action.start
        if any(e.start <= start <= e.end and e.end - e.start >= _POLICY.persist_steps for e in labels):
            return self.step - start
        if isinstance(self.action, Stop):
            return 0
        first, last = self.action.skip_steps
        return self.step - self.action.to_step + last + 1 - first


@dataclass
class Rehearsal:
    """The verdicts and actions over one curve, and the curve."""

    verdicts: list[Verdict] = field(default_factory=list)
    actions: list[RehearsedAction] = field(default_factory=list)
    steps: array[int] = field(default_factory=lambda: array("q"))
    """Every logged step."""
    losses: array[float] = field(default_factory=lambda: array("d"))
    """Loss over all channels at those steps, NaN where there was none."""


def rehearse(records: Iterable[LossRecord], settings: SeriesSettings = VALUE_SETTINGS) -> Rehearsal:
    """Run a recording through a new detector and, where something is off, through the policy."""
    detector, simulated, result = Detector(settings), _SimulatedRun(), Rehearsal()
    episodes: list[OpenEpisode] = []
    for record in records:
        verdicts = detector.observe(record)
        result.steps.append(record.step)
        result.losses.append(math.nan if record.loss is None else record.loss)
        simulated.advance(record)
        if verdicts or episodes:
            result.verdicts += verdicts
            episodes = detector.open_episodes()
            if action := simulated.ask_policy(verdicts, episodes):
                result.actions.append(action)
    said = {(verdict.channel, verdict.start, verdict.end) for verdict in result.verdicts}
    unfinished = [each for each in episodes if (each.channel, each.start, each.end) not in said]
    result.verdicts += [_unfinished(episode) for episode in unfinished]
    return result


def _unfinished(episode: OpenEpisode) -> Verdict:
    """Return an episode that was still open at the end of the recording as a verdict, with its true end."""
    return Verdict(
        kind="confirmed" if episode.confirmed else "suspect",
        channel=episode.channel,
        direction=episode.direction,
        step=episode.end,
        start=episode.start,
        end=episode.end,
        z=episode.peak_z,
        height=0.0,
    )


class _SimulatedRun:
    """The run that the policy is asked about, which advances along a recording."""

    def __init__(self) -> None:
        self._situation = Situation(step=0)
        self._checkpoints: deque[KnownCheckpoint] = deque(maxlen=_NUM_REMEMBERED)
        self._alarms: deque[Verdict] = deque(maxlen=_NUM_REMEMBERED)
        self._last: LossRecord | None = None
        self._next_save = 0

    def advance(self, record: LossRecord) -> None:
        """Take one step: save if it is due, and notice a resume."""
        before, self._last = self._last, record
        if before is not None and (record.attempt != before.attempt or record.step <= before.step):
            self._situation = replace(self._situation, resumed_after_step=record.step - 1)
            while self._checkpoints and self._checkpoints[-1].step >= record.step:
                self._checkpoints.pop()
            self._next_save = record.step
        if record.step >= self._next_save:
            self._checkpoints.append(KnownCheckpoint(step=record.step, health="clean"))
            self._next_save = record.step - record.step % _SAVE_EVERY_STEPS + _SAVE_EVERY_STEPS

    def ask_policy(self, verdicts: list[Verdict], episodes: list[OpenEpisode]) -> RehearsedAction | None:
        """Return the rollback or the stop that the policy would command now, and remember it."""
        assert self._last is not None, "a step was taken"
        step = self._last.step
        self._alarms += [verdict for verdict in verdicts if verdict.kind in ALARMS]
        suspect = checkpoints_to_suspect(self._checkpoints, self._alarms, _POLICY)
        self._situation = replace(
            self._situation,
            step=step,
            verdicts=tuple(verdicts),
            episodes=tuple(episodes),
            checkpoints=tuple(each for each in self._checkpoints if each.step not in suspect),
        )
        action = decide(self._situation, _POLICY)
        if not isinstance(action, Rollback | Stop):
            return None
        handled = self._situation.handled_starts | {action.start}
        self._situation = replace(self._situation, handled_starts=handled)
        if isinstance(action, Rollback):
            past = PastRollback(at_step=step, start=action.start, to_step=action.to_step)
            self._situation = replace(self._situation, rollbacks=(*self._situation.rollbacks, past)[-_NUM_REMEMBERED:])
        return RehearsedAction(step, action)
