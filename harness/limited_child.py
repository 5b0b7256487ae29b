"""Runs foreign code on foreign content in a process of its own, with a limit on its memory and its time.

Native libraries that read files of strangers may loop for ever, ask for any amount of memory, or end the process. In
a child that costs one line of an error. The child gets and answers bytes, over pipes; its function is called by name.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness.text import one_line, size_text

_REFUSED = 3
"""Exit code of a child whose function refused the content: standard output then holds the reason."""
_OUT_OF_MEMORY = 4
_MOST_SECONDS = 7 * 86_400
"""No content takes a week; an operating system waits for less than a month."""
_MOST_SHOWN = 500
_START = "import sys; sys.path[:] = sys.argv[3:]; import harness.limited_child as c; sys.exit(c.main(*sys.argv[1:3]))"
"""Program of the child: it imports what this process can import."""


class LimitedError(ValueError):
    """The function refused the content, or went over a limit. The text is one line, and completes "the file …"."""


def limited(function: Callable[[bytes], bytes], content: bytes, *, memory_bytes: int, seconds: float) -> bytes:
    """Return what a function makes of the content, in a child process.

    Args:
        function: A function of a module, which the child imports. It may print nothing.
        content: Its argument.
        memory_bytes: How much memory the function may use, over that of its imports.
        seconds: How long it may take, imports included; at most a week.

    Raises:
        LimitedError: It raised a ValueError, used more, took longer, or ended the process.
        RuntimeError: It raised another error, which is a bug; with the traceback.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    seconds = min(seconds, _MOST_SECONDS)
    command = [sys.executable, "-c", _START, name, str(memory_bytes), *sys.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            answer, errors = child.communicate(content, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise LimitedError(f"takes more than {seconds:g} s to read") from None
        finally:
            _end(child)
    if child.returncode == 0:
        return answer
    if child.returncode == _REFUSED:
        raise LimitedError(answer.decode())
    if child.returncode == _OUT_OF_MEMORY or b"memory allocation of" in errors or b"std::bad_alloc" in errors:
        raise LimitedError(f"needs more than {size_text(memory_bytes)} of memory to read")
    if child.returncode < 0:
        word = signal.Signals(-child.returncode).name
        raise LimitedError(f"ends the library that reads it with {word}{_last_words(errors)}")
    raise RuntimeError(f"{name} failed:\n{errors.decode(errors='replace')}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child, with all that it started, if it runs still."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _last_words(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return f" ({one_line(lines[-1])[:_MOST_SHOWN]})" if lines else ""


def main(name: str, memory_bytes: str) -> int:
    """Call a function on standard input, within the limits, and return the child's exit code."""
    module, _, function = name.partition(":")
    call: Callable[[bytes], bytes] = getattr(importlib.import_module(module), function)
    content = sys.stdin.buffer.read()
    limit_memory(int(memory_bytes))
    try:
        answer = call(content)
    except MemoryError:
        return _OUT_OF_MEMORY
    except ValueError as error:
        sys.stdout.buffer.write(one_line(str(error))[:_MOST_SHOWN].encode())
        return _REFUSED
    except BaseException as error:
        # A panic of a Rust library is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        sys.stdout.buffer.write(f"makes the library that reads it panic: {one_line(str(error))}"[:_MOST_SHOWN].encode())
        return _REFUSED
    sys.stdout.buffer.write(answer)
    return 0


def limit_memory(memory_bytes: int) -> None:
    """Limit the memory of this process to what it has and so much more. It leaves no core file either."""
    # Not RLIMIT_AS: threads reserve addresses that they never use.
    limit, largest = _data_bytes() + memory_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]
    if largest != resource.RLIM_INFINITY:  # of the user, as by `ulimit -d`
        limit = min(limit, largest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_bytes() -> int:
    """Return the size of this process's data, which RLIMIT_DATA limits."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[5]) * resource.getpagesize()
