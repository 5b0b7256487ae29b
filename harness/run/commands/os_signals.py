"""Signals of the operating system as commands, sent to a process by a scheduler or by a person at a terminal.

SIGUSR1 saves; SIGUSR2, SIGTERM and the first Ctrl-C (SIGINT) save and stop; a second Ctrl-C kills as usual.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from harness.parent_death import follow_parent, followed_signal
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import make_request

KIND_OF_SIGNAL = {
    signal.SIGUSR1: CommandKind.SAVE,
    signal.SIGUSR2: CommandKind.SAVE_AND_STOP,
    signal.SIGTERM: CommandKind.SAVE_AND_STOP,
    signal.SIGINT: CommandKind.SAVE_AND_STOP,
}
HANDLED_SIGNALS = tuple(KIND_OF_SIGNAL)


class SignalFlags:
    """Records which signals arrived. The handlers do nothing else. Every rank has one, in its main thread."""

    def __init__(self) -> None:
        self._arrived = dict.fromkeys(HANDLED_SIGNALS, False)
        self._before: dict[signal.Signals, signal._HANDLER] = {}
        self._num_commands = 0
        self._has_begun = False

    def install(self, *, is_starting: bool = False) -> None:
        """Set the handlers, and unblock the signals that a launcher had blocked until now.

        The end of the launcher, with which this process died until now, becomes a signal to save and stop; where the
        process `is_starting`, that waits for `begun`.
        """
        for number in HANDLED_SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)
        if not is_starting:
            self.begun()

    def asks_to_leave(self) -> bool:
        """Return whether a signal has arrived that lets the run save and stop."""
        return any(
            self._arrived[number] for number, kind in KIND_OF_SIGNAL.items() if kind is CommandKind.SAVE_AND_STOP
        )

    def begun(self) -> None:
        """Note that the first step is done: from now on the end of the launcher is a signal to save and stop.

        Until then a worker dies with it: it has nothing to save, and may wait for others that died too.
        """
        if not self._has_begun and followed_signal() == signal.SIGKILL:
            follow_parent(signal.SIGTERM)
        self._has_begun = True

    def restore(self) -> None:
        """Block the signals again and restore the earlier handlers.

        A process that leaves with an exit code of its own must not be killed by a late signal.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def take_flags(self) -> tuple[bool, ...]:
        """Return one flag for each of `HANDLED_SIGNALS`: has it arrived since the last call? All ranks combine them."""
        taken = tuple(self._arrived.values())
        for number, arrived in zip(HANDLED_SIGNALS, taken, strict=True):
            if arrived:  # a signal that arrives at this moment must not be lost
                self._arrived[number] = False
        return taken

    def forget(self, flags: Sequence[bool]) -> None:
        """Drop these signals if they arrived meanwhile: ranks that get one together may see it steps apart."""
        for number, agreed in zip(HANDLED_SIGNALS, flags, strict=True):
            if agreed:
                self._arrived[number] = False

    def commands_from(self, flags: Sequence[bool]) -> list[Command]:
        """Return the commands that signals stand for. The flags may be those of all ranks combined."""
        return [self._command(number) for number, flag in zip(HANDLED_SIGNALS, flags, strict=True) if flag]

    def _command(self, number: signal.Signals) -> Command:
        self._num_commands += 1
        return Command(
            request=make_request(KIND_OF_SIGNAL[number], {}),
            reason=f"received {number.name}",
            source=number.name,
            id=f"{number.name}#{self._num_commands}",
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived[signal.Signals(number)] = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
