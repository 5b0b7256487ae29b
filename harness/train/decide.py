"""What to do between two steps: one pure function of the state, the commands and the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from harness.config.phase_settings import in_phase, parallel_of, shares_processes
from harness.config.schema import Config
from harness.errors import (
    EXIT_FINISHED,
    EXIT_NEEDS_PERSON,
    EXIT_REQUEUE,
    EXIT_STOPPED_BY_PERSON,
)
from harness.plan.plan import Plan
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.train.state import TrainState

MAX_FAILED_SAVES = 3
"""Saves that may fail in a row before a person has to look."""


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """The steps at which something is due without being ordered."""

    first_step: int = 1
    last_step: int
    """Where this launch ends by itself. Steps before the first or behind the last need processes in another layout."""
    is_early: bool = False
    """Whether that is before the end of the run (`run.stop_at_step`)."""
    layout_ends: bool = False
    """Whether that is the end of a phase behind which the layout is another one."""
    borders: tuple[int, ...] = ()
    """The last step of every phase that another one follows."""
    save_every_steps: int | None
    evaluate_every_steps: int | None

    def has_layout_of(self, step: int) -> bool:
        """Whether a step is computed in the layout of this launch."""
        return step >= self.first_step and (step <= self.last_step or not self.layout_ends)

    @staticmethod
    def of(config: Config, plan: Plan, phase_index: int = 0) -> Milestones:
        """The milestones of a launch while it is in a phase of its plan."""
        alike = [
            shares_processes(parallel_of(config, n), parallel_of(config, phase_index)) for n in range(len(plan.phases))
        ]
        first = phase_index - _num_leading(reversed(alike[:phase_index]))
        last = phase_index + _num_leading(alike[phase_index + 1 :])
        last_step, stop = plan.phases[last].last_step, config.run.stop_at_step
        return Milestones(
            first_step=plan.phases[first].first_step,
            last_step=last_step if stop is None else min(last_step, stop),
            is_early=stop is not None and stop <= last_step and stop < plan.train_steps,
            layout_ends=last_step < plan.train_steps and (stop is None or stop > last_step),
            borders=plan.borders,
            save_every_steps=config.checkpoint.save_every_steps,
            evaluate_every_steps=in_phase(config, phase_index).evaluation.every_steps,
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens before the next step, in this command: evaluate, roll back or save, leave."""

    evaluate: bool = False
    save: bool = False
    exit_code: int | None = None
    """None: go on."""
    reason: str = ""
    """Why the run leaves."""
    in_another_layout: bool = False
    """Whether it leaves because the next step needs processes in another layout."""
    rollback: Command | None = None
    """A command to return to an earlier checkpoint. Nothing else happens then, unless it is refused."""


def decide(milestones: Milestones, state: TrainState, commands: Sequence[Command], *, finite: bool = True) -> Decision:
    """What to do with a state that a step has just reached (or that was just restored).

    A state that is not finite is never saved or evaluated: it is rolled back if that is ordered, and else waits for a
    person. A command to stop wins over one to save and stop, because only a person gives it.

    Args:
        milestones: When something is due.
        state: The run as it is.
        commands: What was ordered since the last decision.
        finite: Whether loss and gradient of the last step were finite.
    """
    if not finite:
        return _decide_not_finite(commands)
    kinds = {command.kind for command in commands}
    finished = state.step >= milestones.last_step
    save_commanded = bool(kinds & {CommandKind.SAVE, CommandKind.SAVE_AND_STOP})
    due = finished or _is_due(state.step, milestones.save_every_steps) or state.step in milestones.borders
    save = (save_commanded or due) and not state.is_saved and state.step > 0
    evaluate = milestones.evaluate_every_steps is not None and (
        finished or _is_due(state.step, milestones.evaluate_every_steps) or state.step in milestones.borders
    )
    if CommandKind.STOP in kinds:
        return Decision(save=save_commanded and save, exit_code=EXIT_STOPPED_BY_PERSON, reason=_why(commands))
    if CommandKind.STOP_FOR_PERSON in kinds:
        return Decision(save=save_commanded and save, exit_code=EXIT_NEEDS_PERSON, reason=_why(commands))
    rollbacks = [command for command in commands if command.kind is CommandKind.ROLLBACK]
    if rollbacks:
        return Decision(rollback=rollbacks[-1])
    if CommandKind.SAVE_AND_STOP in kinds and (not finished or milestones.layout_ends):
        return Decision(save=save, exit_code=EXIT_REQUEUE, reason=_why(commands))
    if not milestones.has_layout_of(state.step + 1):
        reason = "the next phase is computed in another layout"
        return Decision(evaluate=evaluate, save=save, exit_code=EXIT_REQUEUE, reason=reason, in_another_layout=True)
    if finished:
        reason = "run.stop_at_step is reached" if milestones.is_early else "all steps are done"
        return Decision(evaluate=evaluate, save=save, exit_code=EXIT_FINISHED, reason=reason)
    if state.num_failed_saves >= MAX_FAILED_SAVES:
        return Decision(exit_code=EXIT_NEEDS_PERSON, reason=f"{state.num_failed_saves} saves in a row failed")
    return Decision(evaluate=evaluate, save=save)


def decide_after_rollback(
    milestones: Milestones, decision: Decision, commands: Sequence[Command], before: TrainState, after: TrainState
) -> Decision:
    """What to do once a command to roll back was answered: what is due in the state it led to, and the other commands.

    Args:
        milestones: When something is due.
        decision: The one to roll back.
        commands: What it was made from.
        before: The state that it was made in.
        after: The state behind the rollback; of the same attempt if it was refused, or carried out long before.
    """
    if decision.exit_code is not None and after.attempt == before.attempt:  # not finite, and stays so
        return replace(decision, rollback=None)
    return decide(milestones, after, [command for command in commands if command.kind is not CommandKind.ROLLBACK])


def _decide_not_finite(commands: Sequence[Command]) -> Decision:
    stops = [command for command in commands if command.kind is CommandKind.STOP_FOR_PERSON]
    rollbacks = [command for command in commands if command.kind is CommandKind.ROLLBACK]
    why = "loss or gradient is not finite"
    return Decision(
        exit_code=EXIT_NEEDS_PERSON,
        reason=f"{why}; {_why(stops)}" if stops else why,
        rollback=rollbacks[-1]
        if rollbacks and not any(command.kind is CommandKind.STOP for command in commands)
        else None,
    )


def _num_leading(flags: Iterable[bool]) -> int:
    """How many flags hold before the first that does not."""
    return sum(1 for _ in takewhile(bool, flags))


def _is_due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step > 0 and step % every_steps == 0


def _why(commands: Sequence[Command]) -> str:
    stopping = [command for command in commands if command.request.interrupts]
    return "; ".join(map(_described, stopping))


def _described(command: Command) -> str:
    """Return kind, source and reason, nothing twice: `stop by x.json: maintenance`, `save-and-stop by SIGTERM`."""
    source = "" if command.source == command.kind else f" by {command.source}"
    reason = f": {command.reason}" if command.reason and command.source not in command.reason else ""
    return f"{command.kind}{source}{reason}"
