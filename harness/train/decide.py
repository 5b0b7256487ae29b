"""Decides what to do between two steps: one pure function of the state, the commands and the configuration."""

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
"""Number of failed saves in a row after which a person must look."""


@dataclass(frozen=True, kw_only=True)
class Milestones:
    """The steps at which something is due without a command."""

    first_step: int = 1
    last_step: int
    """Last step of this launch. Steps before the first or after the last need processes in another layout."""
    is_early: bool = False
    """True if `last_step` is before the end of the run (`run.stop_at_step`)."""
    layout_ends: bool = False
    """True if `last_step` ends a phase after which the layout is another one."""
    borders: tuple[int, ...] = ()
    """Last step of every phase that another one follows."""
    save_every_steps: int | None
    evaluate_every_steps: int | None
    evaluates_phase_ends: bool = False
    """True if the end of a phase is evaluated although no other step is (`evaluation.measure_forgetting`)."""

    def has_layout_of(self, step: int) -> bool:
        """Return whether a step is computed in the layout of this launch."""
        return step >= self.first_step and (step <= self.last_step or not self.layout_ends)

    @staticmethod
    def of(config: Config, plan: Plan, phase_index: int = 0) -> Milestones:
        """Return the milestones of a launch while it is in a phase of its plan."""
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
            evaluates_phase_ends=bool(config.evaluation.measure_forgetting),
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The actions before the next step, in this order: evaluate, roll back or save, leave."""

    evaluate: bool = False
    save: bool = False
    exit_code: int | None = None
    """None to go on."""
    reason: str = ""
    """Reason for leaving."""
    in_another_layout: bool = False
    """True if the run leaves because the next step needs processes in another layout."""
    rollback: Command | None = None
    """A command to return to an earlier checkpoint. Nothing else is done, unless it is refused."""


def decide(milestones: Milestones, state: TrainState, commands: Sequence[Command], *, finite: bool = True) -> Decision:
    """Return the decision for a state that a step has just reached (or that was just restored).

    A state that is not finite is never saved or evaluated. It is rolled back on a command to do so, else the run leaves
    for a person. A command to stop wins over one to save and stop, because only a person gives it. The commands are
    those since the last decision; `finite` is about loss and gradient of the last step.
    """
    if not finite:
        return _decide_not_finite(commands)
    kinds = {command.kind for command in commands}
    finished = state.step >= milestones.last_step
    save_commanded = bool(kinds & {CommandKind.SAVE, CommandKind.SAVE_AND_STOP})
    due = finished or _is_due(state.step, milestones.save_every_steps) or state.step in milestones.borders
    save = (save_commanded or due) and not state.is_saved and state.step > 0
    evaluate = (milestones.evaluate_every_steps is not None or milestones.evaluates_phase_ends) and (
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
    """Return the decision after a rollback was done or refused, for the new state and the other commands.

    The state has the same attempt as before if the rollback was refused, or had been done long ago.
    """
    if decision.exit_code is not None and after.attempt == before.attempt:  # not finite, and stays so
        return replace(decision, rollback=None)
    return decide(milestones, after, [command for command in commands if command.kind is not CommandKind.ROLLBACK])


def awaits_save(commands: Sequence[Command]) -> bool:
    """Return whether a command is answered with what was saved. A rollback is, but once its own save is done."""
    return any(command.kind is not CommandKind.ROLLBACK for command in commands)


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
    """Return the number of true flags before the first false one."""
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
