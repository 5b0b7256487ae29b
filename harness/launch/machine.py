"""What this machine offers to local workers: GPUs, cores, a free port. Found out without importing torch."""

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


def count_gpus(list_command: Sequence[str] = LIST_GPUS, count_command: Sequence[str] = COUNT_GPUS) -> int:
    """GPUs that workers can use.

    Where the driver lists none there are none. Where it lists some, torch is asked, in a process of its own: it heeds
    CUDA_VISIBLE_DEVICES, and a build of torch for CPUs can use none.

    Raises:
        HarnessError: torch could not say.
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
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def free_port() -> int:
    """A port on the loopback device that nobody listens on, and that the system gives to nobody by itself.

    Workers bind it seconds later. A port that the system had chosen could be some connection's by then, or another
    launch's.
    """
    first_given = _first_port_given()
    while True:
        port = random.SystemRandom().randrange(_FIRST_PORT, first_given)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _first_port_given() -> int:
    """Where the ports begin that the system gives to who asks for any; Linux's default where it does not say."""
    try:
        first = int(_PORTS_GIVEN.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32768
    return max(first, _FIRST_PORT + 1000)


def _output(command: Sequence[str]) -> str:
    """What a command writes; nothing if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
