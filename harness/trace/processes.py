"""Runs traces, each in a process of its own: Megatron's groups belong to a process, and so does a trace."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from harness.errors import HarnessError, UsageError
from harness.json_text import parse_json
from harness.parallel.environment import environment_without_gpus
from harness.trace.findings import StageFindings
from harness.trace.request import Request

COMMAND = (sys.executable, "-m", "harness.trace.stage")
NEEDED = ("torch", "numpy", "megatron.core")
_LAST_LINES = 12

Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the processes."""

    at_once: int = 2
    """Processes that run at the same time; each takes about a gigabyte."""
    seconds: float = 900.0
    """Time for all of them."""


def require_megatron(modules: Sequence[str] = NEEDED) -> None:
    """Make sure that what a trace runs is installed.

    Raises:
        UsageError: Something is missing.
    """
    for module in modules:
        if not _is_installed(module):
            raise UsageError(
                f"--trace runs the real model and needs {module}, which is not installed: pip install 'harness[train]' "
                "(no GPU is needed), or leave --trace out"
            )


def trace_stages(
    requests: Sequence[Request], show: Show, limits: Limits = Limits(), command: Sequence[str] = COMMAND
) -> list[StageFindings]:
    """Trace stages, a few at once, and return their findings in the order of the requests.

    No process is left over, however this ends. `show` gets a line for each stage that is done.

    Raises:
        HarnessError: A trace failed, or took too long.
    """
    started = time.monotonic()
    processes = _Processes(command)
    with ThreadPoolExecutor(limits.at_once) as pool:
        waiting = {pool.submit(_trace, request, processes): request for request in requests}
        found: dict[int, StageFindings] = {}
        try:
            for future in as_completed(waiting, timeout=limits.seconds):
                findings = found[waiting[future].pipeline_rank] = future.result()
                show(
                    f"traced {len(found)} of {len(requests)} pipeline ranks: rank {findings.pipeline_rank} "
                    f"after {time.monotonic() - started:.0f} s"
                )
        except TimeoutError:
            left = sorted(each.pipeline_rank for future, each in waiting.items() if not future.done())
            raise HarnessError(
                f"the trace of pipeline rank {', '.join(map(str, left))} was not done after {limits.seconds:.0f} s and "
                "was ended; trace fewer layers (--set model.num_layers=…): memory grows evenly with them"
            ) from None
        finally:
            processes.end()
    return [found[request.pipeline_rank] for request in requests]


class _Processes:
    """The processes of all traces. After the end of one, none is started any more."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._started: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._is_over = False

    def start(self, errors: IO[str]) -> subprocess.Popen[str]:
        """Start one, with its errors in a file. It ends when its standard input does, so also with this process."""
        with self._lock:
            if self._is_over:
                raise HarnessError("the traces were ended")
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment_without_gpus(),
            )
            self._started.append(process)
            return process

    def end(self) -> None:
        """End all of them."""
        with self._lock:
            self._is_over = True
            for process in self._started:
                process.kill()


def _trace(request: Request, processes: _Processes) -> StageFindings:
    with tempfile.TemporaryFile("w+") as errors:
        answer = ""
        with processes.start(errors) as process, suppress(BrokenPipeError):
            assert process.stdin is not None and process.stdout is not None, "both are pipes"
            process.stdin.write(f"{request.as_json()}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if answer:
            return StageFindings.from_json(parse_json(answer))
        errors.seek(0)
        lines = [f"  {line}" for line in errors.read().splitlines()[-_LAST_LINES:]]
        heading = f"the trace of pipeline rank {request.pipeline_rank} failed; its last lines:"
        raise HarnessError("\n".join([heading, *lines]))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
