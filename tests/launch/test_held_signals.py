from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.launch import held_signals
from harness.launch.held_signals import next_signal

WATCHED = (signal.SIGUSR1, signal.SIGTERM)

WAITS = """
import signal
from harness.launch.held_signals import next_signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("waiting", flush=True)
print(next_signal([signal.SIGTERM], 0.5), flush=True)
print(next_signal([signal.SIGTERM], 60), flush=True)
"""


@pytest.fixture
def held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("held_back")
def test_signals_come_one_by_one_and_then_none() -> None:
    for number in WATCHED:
        signal.raise_signal(number)  # to this thread: others of this process hold nothing back
    assert {next_signal(WATCHED, 0), next_signal(WATCHED, 5)} == set(WATCHED)
    assert next_signal(WATCHED, 0) is None


@pytest.mark.usefixtures("held_back")
def test_others_stay_where_they_are() -> None:
    signal.raise_signal(signal.SIGUSR1)
    assert next_signal([signal.SIGTERM], 0) is None
    assert next_signal([signal.SIGUSR1], 0) == signal.SIGUSR1


@pytest.mark.usefixtures("held_back")
def test_a_signal_that_another_thread_took_first_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen_and_taken(*descriptors_and_time: Any) -> tuple[list[Any], ...]:
        ready = select.select(*descriptors_and_time)
        assert signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1
        return ready

    monkeypatch.setattr(held_signals, "select", SimpleNamespace(select=seen_and_taken))
    signal.raise_signal(signal.SIGUSR1)
    assert next_signal([signal.SIGUSR1], 5) is None


def test_a_process_that_was_stopped_past_the_time_hears_nothing_that_nobody_sent() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        stopped = time.monotonic()
        while time.monotonic() < stopped + 0.6:
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "None\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
