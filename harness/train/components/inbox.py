"""Commands from files and signals, the same on every rank at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import torch

from harness.data.arrivals import NewParts
from harness.parallel import collectives
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.commands.os_signals import SignalFlags
from harness.run.fence import Fence
from harness.train.components.desk import Desk
from harness.train.components.lookout import Lookout
from harness.train.components.open_data import RunData
from harness.train.state import TrainState

Outcome = dict[str, object]
"""The outcome of a command, as it is written into its acknowledgement."""
_SAVING_KINDS = (CommandKind.SAVE, CommandKind.SAVE_AND_STOP, CommandKind.ROLLBACK)


class Inbox:
    """Collects commands from the mailbox (on rank 0) and from signals (on any rank), the same on all ranks.

    Ranks notify each other by flags in a reduction that the step makes anyway. They exchange the commands themselves
    only if a flag is raised.
    """

    def __init__(
        self,
        lookout: Lookout | None,
        signals: SignalFlags,
        device: torch.device,
        *,
        fence: Fence | None,
        desk: Desk,
        data: RunData,
    ) -> None:
        """Take the lookout, which only the writer has, and the other sources of commands. The desk answers them."""
        self._lookout = lookout
        self._fence = fence
        self._desk = desk
        self._arrivals = data.arrivals
        self._sound_parts = data.sound_parts
        self._signals = signals
        self._device = device
        self._waiting: list[Command] = []
        self._unsaved: list[Command] = []
        """Commands that were carried out, but are in no checkpoint yet."""
        self._refused: dict[str, str] = {}
        """Reasons why commands were not carried out, by the command's id."""

    def flags(self, *, lacks_parts: bool = False) -> tuple[bool, ...]:
        """Return this rank's flags for the others: parts arrived or were read, a command waits, each kind of signal.

        If training waits for parts (`lacks_parts`), few of them count as arrived, too.
        """
        if self._lookout is not None:
            self._waiting += self._lookout.take()
        has_parts = self._arrivals is not None and self._arrivals.has_found(is_wanted=lacks_parts)
        has_read = self._sound_parts is not None and self._sound_parts.has_news()
        return (has_parts, has_read, bool(self._waiting), *self._signals.take_flags())

    def summed_flags(self, *, lacks_parts: bool = False) -> list[float]:
        """Return the sums of all ranks' flags, outside a step. Every rank must call it."""
        flags = torch.tensor([float(flag) for flag in self.flags(lacks_parts=lacks_parts)], device=self._device)
        summed: list[float] = collectives.sum_over(flags).tolist()
        return summed

    def before_first_step(self) -> list[Command]:
        """Return the commands that came before training began. Every rank must call it."""
        if self._lookout is not None:
            self._waiting += self._lookout.look()
        return self._behind(self.summed_flags())

    def agree(self, summed_flags: Sequence[float]) -> list[Command]:
        """Return the commands behind the flags that the ranks raised in a step, in the same order on every rank.

        Every rank must call it with the same sums. Costs nothing unless a flag is raised.
        """
        self._signals.begun()
        return self._behind(summed_flags)

    def _behind(self, summed_flags: Sequence[float]) -> list[Command]:
        _, _, *of_commands = summed_flags
        if not any(of_commands):
            return []
        arrived = [count > 0 for count in of_commands[1:]]
        self._signals.forget(arrived)
        commands, self._waiting = self._waiting + self._signals.commands_from(arrived), []
        return collectives.from_rank_0(commands)

    def news(self, summed_flags: Sequence[float]) -> NewParts:
        """Return the parts that arrived, the same on every rank. Every rank must call it with the same sums."""
        if not summed_flags[0]:
            return NewParts()
        return collectives.from_rank_0(self._arrivals.take() if self._arrivals is not None else NewParts())

    def has_part_news(self, summed_flags: Sequence[float]) -> bool:
        """Return whether a rank has read a part; the same on every rank."""
        return summed_flags[1] > 0

    def put_back(self, news: NewParts) -> None:
        """Let the parts be found again later."""
        if self._arrivals is not None:
            self._arrivals.put_back(news.parts)

    def refuse(self, command: Command, problem: str | None) -> None:
        """Note why a command was not carried out, for its acknowledgement."""
        if self._lookout is not None:
            self._refused[command.id] = problem or "it could not be carried out"

    def acknowledge(self, commands: Sequence[Command], state: TrainState) -> None:
        """Let the commands move to `done/` with their outcome, beside training. Must be called before every step.

        A command to roll back that is in no checkpoint yet waits: it must be found again after a crash.

        Raises:
            RunTakenOverError: Earlier ones were for another process, which has taken the run over.
        """
        answered = [*self._unsaved, *commands]
        self._unsaved = [command for command in answered if state.has_unsaved_rollback and _led_to(command, state)]
        answered = [command for command in answered if command not in self._unsaved]
        if self._lookout is None or not answered:
            return
        outcomes = [(command, self._outcome(command, state)) for command in answered]
        self._desk.hand(partial(_answer, self._lookout, self._fence, outcomes))

    def _outcome(self, command: Command, state: TrainState) -> Outcome:
        outcome: Outcome = {"step": state.step, "attempt": state.attempt}
        if (problem := self._refused.pop(command.id, None)) is not None:
            outcome["refused"] = problem
        elif command.kind in _SAVING_KINDS:
            outcome |= _what_was_saved(command, state)
        return outcome


def _answer(lookout: Lookout, fence: Fence | None, outcomes: Sequence[tuple[Command, Outcome]]) -> None:
    if fence is not None:
        with suppress(OSError):  # if the disk does not answer, the run counts as ours, as in the step before
            fence.require_held()
    for command, outcome in outcomes:
        lookout.acknowledge(command, outcome)


def _led_to(command: Command, state: TrainState) -> bool:
    """Return whether a command is the last one by which the run was rolled back."""
    if command.kind is not CommandKind.ROLLBACK or state.rollback is None:
        return False
    return state.rollback.command == command.fingerprint


def _what_was_saved(command: Command, state: TrainState) -> Outcome:
    if state.is_saved or _led_to(command, state):
        return {"saved": True, "path": state.checkpoint, "seconds": state.save_seconds}
    problem = state.save_problem or "the last step was not finite"
    if state.step == 0:
        problem = "no step was done yet"
    return {"saved": False, "problem": problem, "last_checkpoint": state.checkpoint}
