"""Faults at the n-th disk call of an operation: killed before or after it, or the call fails.

Python's `os` functions are replaced while the operation runs, so the campaign needs no tracer and runs anywhere. Kills
happen in a forked child. `fsync` is recorded but not done: a killed process does not lose what the kernel has
(`power_cuts` is for that).
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from harness.errors import HarnessError

CALLS = ("open", "write", "fsync", "close", "rename", "replace", "unlink", "mkdir", "rmdir")
REFUSED = 9
"""Exit status of a child whose operation raised a `HarnessError`."""


@dataclass(frozen=True)
class Call:
    """One disk call. `path` is absolute; of `rename` and `replace` it is the old one and `target` the new one."""

    name: str
    path: str
    target: str = ""
    data: bytes = b""
    creates: bool = False


Act = Callable[[int, Call, Callable[[], object]], object]
"""Called with the number of a call (from 1), the call, and what performs it; returns its result."""


@dataclass
class Tracer:
    """Sees every disk call before it is done; `act` may do something else instead."""

    act: Act
    calls: list[Call] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    """Those that did not fail."""
    _paths: dict[int, str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(self, name: str, real: Callable[..., Any], *args: object, **kwargs: object) -> object:
        with self._lock:
            call = self._described(name, args, kwargs)
            self.calls.append(call)
            perform = (lambda: None) if name == "fsync" else (lambda: real(*args, **kwargs))
            result = self.act(len(self.calls), call, perform)
            if name == "open":
                assert isinstance(result, int)
                self._paths[result] = call.path
            self.done.append(call)
            return result

    def _described(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        first = args[0]
        path = self._paths.get(first, "?") if isinstance(first, int) else self._absolute(first, kwargs.get("dir_fd"))
        target = self._absolute(args[1], None) if name in ("rename", "replace") else ""
        data = bytes(args[1]) if name == "write" else b""
        creates = name == "open" and bool(args[1] & os.O_CREAT)
        return Call(name, path, target, data, creates)

    def _absolute(self, path: str | Path, dir_fd: int | None) -> str:
        base = Path(self._paths[dir_fd]) if dir_fd is not None else Path.cwd()
        return str(base / path)


@contextmanager
def traced(act: Act) -> Iterator[Tracer]:
    tracer = Tracer(act)
    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, _replacement(tracer, name)))
        yield tracer


def _replacement(tracer: Tracer, name: str) -> Callable[..., Any]:
    real = getattr(os, name)
    return lambda *args, **kwargs: tracer(name, real, *args, **kwargs)


def recorded(operation: Callable[[], object]) -> Tracer:
    """What an operation does to the disk when all goes well."""
    with traced(lambda number, call, perform: perform()) as tracer:
        operation()
    return tracer


def killed_at(number: int, when: Literal["before", "within"], operation: Callable[[], object]) -> int:
    """Run in a child that is killed before its n-th disk call, or within it: when a `write` has written half its data.

    Returns -9 if it was killed, 0 if it ended before that, `REFUSED` if it gave up.
    """

    def act(count: int, call: Call, perform: Callable[[], object]) -> object:
        if count != number:
            return perform()
        if when == "within":
            _half_write(call)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process went on")

    return in_child(lambda: _run_traced(act, operation))


def _half_write(call: Call) -> None:
    with Path(call.path).open("ab") as file:
        file.write(call.data[: len(call.data) // 2])


def _run_traced(act: Act, operation: Callable[[], object]) -> None:
    with traced(act):
        operation()


def in_child(operation: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        operation()
        status = 0
    except HarnessError:
        status = REFUSED
    except BaseException:  # noqa: BLE001 (the child must not return into the test runner)
        traceback.print_exc()
    finally:
        os._exit(status)


@contextmanager
def failing_at(number: int, error: int, *, sticky: bool) -> Iterator[Tracer]:
    """The n-th disk call fails with an `errno`, with `sticky` all later ones but `close` too."""

    def act(count: int, call: Call, perform: Callable[[], object]) -> object:
        fails = count == number or (sticky and count > number and call.name != "close")
        if fails and call.name == "close":
            perform()
        if fails:
            raise OSError(error, os.strerror(error), call.path)
        return perform()

    with traced(act) as tracer:
        yield tracer
