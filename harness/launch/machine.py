"""Resources of this machine for local workers: GPUs, cores, a free port. Found without importing torch."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import HarnessError

LIST_GPUS = ("nvidia-smi", "--list-gpus")
COUNT_GPUS = (sys.executable, "-c", "import torch; print(torch.cuda.device_count())")
_PATIENCE_S = 120.0
_PORTS_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10_000
_MEMORY = Path("/proc/meminfo")


def count_gpus(list_command: Sequence[str] = LIST_GPUS, count_command: Sequence[str] = COUNT_GPUS) -> int:
    """Return the number of GPUs that workers can use.

    It is 0 if the driver lists none. If it lists some, torch is asked, in a process of its own: torch respects
    CUDA_VISIBLE_DEVICES, and a build of torch for CPUs can use no GPU.

    Raises:
        HarnessError: PyTorch did not answer with a number.
    """
    if "GPU" not in _output(list_command):
        return 0
    text = _output(count_command)
    if not text.strip().isdecimal():
        raise HarnessError(
            f"the driver lists GPUs, but `{' '.join(count_command)}` does not say how many can be used; "
            "run `harness doctor` to see what is wrong"
        )
    return int(text)


def count_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int | None:
    """Return the memory and the swap space of this machine in bytes; None if the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        return sum(int(fields[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))
    except (OSError, ValueError, KeyError, IndexError):
        return None


def free_port() -> int:
    """Return a port of the loopback device on which nothing listens, outside of the range that the system assigns from.

    Workers bind it seconds later. By then the system could have given a port of that range to a connection, or to
    another launch.
    """
    first_given = _first_port_given()
    while True:
        port = random.SystemRandom().randrange(_FIRST_PORT, first_given)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _first_port_given() -> int:
    """Return the first port of the range that the system assigns from; Linux's default if it is unknown."""
    try:
        first = int(_PORTS_GIVEN.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32768
    return max(first, _FIRST_PORT + 1000)


def _output(command: Sequence[str]) -> str:
    """Return the output of a command; empty if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
