from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.run.commands.kinds import CommandKind
from harness.run.commands.os_signals import HANDLED_SIGNALS, SignalFlags


@pytest.fixture
def flags() -> Iterator[SignalFlags]:
    installed = SignalFlags()
    installed.install()
    yield installed
    installed.restore()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGUSR1, CommandKind.SAVE),
        (signal.SIGUSR2, CommandKind.SAVE_AND_STOP),
        (signal.SIGTERM, CommandKind.SAVE_AND_STOP),
        (signal.SIGINT, CommandKind.SAVE_AND_STOP),
    ],
)
def test_a_signal_is_an_order_taken_once(flags: SignalFlags, number: signal.Signals, kind: CommandKind) -> None:
    assert flags.commands_from(flags.take_flags()) == []
    signal.raise_signal(number)
    (command,) = flags.commands_from(flags.take_flags())
    assert (command.kind, command.source, command.reason) == (kind, number.name, f"received {number.name}")
    assert flags.commands_from(flags.take_flags()) == []


def test_a_signal_that_comes_twice_is_one_order_and_a_later_one_another(flags: SignalFlags) -> None:
    for _ in range(2):
        signal.raise_signal(signal.SIGUSR1)
    (first,) = flags.commands_from(flags.take_flags())
    signal.raise_signal(signal.SIGUSR1)
    (second,) = flags.commands_from(flags.take_flags())
    assert first.id != second.id


def test_a_second_sigterm_is_harmless(flags: SignalFlags) -> None:
    for _ in range(3):
        signal.raise_signal(signal.SIGTERM)
    assert [command.source for command in flags.commands_from(flags.take_flags())] == ["SIGTERM"]


def test_ranks_can_combine_their_flags(flags: SignalFlags) -> None:
    signal.raise_signal(signal.SIGUSR1)
    mine = flags.take_flags()
    others = tuple(number == signal.SIGTERM for number in HANDLED_SIGNALS)
    combined = [a or b for a, b in zip(mine, others, strict=True)]
    assert {command.source for command in flags.commands_from(combined)} == {"SIGUSR1", "SIGTERM"}


def test_restore_puts_the_earlier_handlers_back() -> None:
    before = [signal.getsignal(number) for number in HANDLED_SIGNALS]
    flags = SignalFlags()
    flags.install()
    assert [signal.getsignal(number) for number in HANDLED_SIGNALS] != before
    signal.raise_signal(signal.SIGINT)
    flags.restore()
    assert [signal.getsignal(number) for number in HANDLED_SIGNALS] == before


def run_with_flags(body: str) -> subprocess.CompletedProcess[str]:
    program = f"""
import os, signal
from harness.run.commands.os_signals import SignalFlags
flags = SignalFlags()
{body}
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_second_interrupt_kills() -> None:
    done = run_with_flags(
        "flags.install()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print([command.kind.value for command in flags.commands_from(flags.take_flags())], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('still here')"
    )
    assert done.returncode == -signal.SIGINT
    assert done.stdout == "['save-and-stop']\n"


def test_signals_held_back_until_the_worker_listens_are_not_lost() -> None:
    done = run_with_flags(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "flags.install()\n"
        "print(sorted(command.source for command in flags.commands_from(flags.take_flags())))"
    )
    assert done.stdout == "['SIGTERM', 'SIGUSR1']\n", done.stderr


def test_signals_modules_import_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, harness.run.commands.mailbox, harness.run.commands.giving, harness.run.commands.os_signals\n"
        "import harness.run.lock\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
