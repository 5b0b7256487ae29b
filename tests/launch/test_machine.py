from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.launch.machine import count_cores, count_gpus, free_port

THREE_LISTED = (sys.executable, "-c", "print('GPU 0: H100\\nGPU 1: H100\\nGPU 2: H100')")
TWO_USABLE = (sys.executable, "-c", "print(2)")
FAILS = (sys.executable, "-c", "raise SystemExit('no driver')")
MISSING = ("there-is-no-such-command",)


@pytest.mark.parametrize("listing", [MISSING, FAILS, (sys.executable, "-c", "print('No devices found')")])
def test_without_a_driver_there_are_no_gpus_and_torch_is_not_asked(listing: tuple[str, ...]) -> None:
    assert count_gpus(listing, MISSING) == 0


def test_torch_has_the_last_word_on_how_many_can_be_used() -> None:
    assert count_gpus(THREE_LISTED, TWO_USABLE) == 2


@pytest.mark.parametrize("counting", [FAILS, MISSING])
def test_gpus_that_torch_cannot_count_are_an_error(counting: tuple[str, ...]) -> None:
    with pytest.raises(HarnessError, match=r"the driver lists GPUs, but `.*` does not say how many.*`harness doctor`"):
        count_gpus(THREE_LISTED, counting)


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_a_free_port_is_none_that_the_system_gives_to_others() -> None:
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(10_000 <= port < first_given for port in (free_port() for _ in range(50)))


def test_ports_that_are_taken_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = free_port()
    drawn = iter([taken, taken, taken + 1])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *limits: next(drawn))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        assert free_port() == taken + 1


def test_there_is_at_least_one_core() -> None:
    assert count_cores() >= 1
