"""Waits after a step that is not finite for a command of the watcher, if there is a watcher that may roll back."""

from __future__ import annotations

import time

from harness.parallel import collectives
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.heartbeats import Activity
from harness.run.watcher_presence import is_watched
from harness.train.decide import Decision, decide
from harness.train.run import Run
from harness.train.state import TrainState

_LOOK_EVERY_S = 0.25
_ANSWERS = frozenset((CommandKind.ROLLBACK, CommandKind.STOP, CommandKind.STOP_FOR_PERSON, CommandKind.SAVE_AND_STOP))


def await_rescue(run: Run, state: TrainState, commands: list[Command]) -> tuple[Decision, list[Command]]:
    """Wait at most `watch.answer_within_s` for a command to roll back or to stop. Every rank must call it.

    Returns the decision, and the commands behind it: those that came during the step, and those that came since. The
    step's record must have been written, so that the watcher can see it.

    Does not wait without a watcher, or if it may only alert. The step was not applied, so the weights are those of the
    step before, and commands for evidence can be carried out meanwhile.
    """
    received = list(commands)
    patience_s = collectives.from_rank_0(_patience_s(run))
    if patience_s:
        run.announce(f"waiting up to {patience_s:g} s for the watcher to roll back")
    deadline = time.monotonic() + patience_s
    while not any(command.kind in _ANSWERS for command in received):
        if collectives.from_rank_0(time.monotonic() >= deadline):
            break
        run.heartbeat.enter(Activity.OPTIMIZER, state.step)  # a sign of progress: this wait is not a hang
        time.sleep(_LOOK_EVERY_S)
        received += run.inbox.before_first_step()
    return decide(run.milestones, state, received, finite=False), received


def _patience_s(run: Run) -> float:
    settings = run.config.watch
    if not run.ranks.is_writer or settings.action != "rollback":
        return 0.0
    return settings.answer_within_s if run.desk.do(lambda: is_watched(run.run_dir)) else 0.0
