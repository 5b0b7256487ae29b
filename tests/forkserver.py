"""The process that the tests' processes are forks of: it has loaded torch and Megatron once for all of them."""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path


@cache
def warm_context() -> ForkServerContext:
    """Return the context whose processes are forks of one that has loaded torch and Megatron."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["libraries"])
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([path] if path else [])])
    try:
        ensure_running()  # before Python 3.13 it looks for what to load in PYTHONPATH only
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    return context
