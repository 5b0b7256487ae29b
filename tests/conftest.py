"""What all tests share: the same drawn examples for everybody, and one pool of processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from pool import Pool

if not torch.cuda.is_available():
    # Kernels are interpreted where they cannot run. Triton asks for this when it is imported, and never again.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and processes that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("same-everywhere", derandomize=True, deadline=None)
settings.load_profile("same-everywhere")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four processes for everything that needs Megatron: they are started when the first test asks for them."""
    processes = Pool(4)
    yield processes
    processes.close()


@pytest.fixture(autouse=True)
def _signal_mask() -> Iterator[None]:
    """Let through what a test holds back: a process that another test starts would never hear of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden values anew instead of comparing")
