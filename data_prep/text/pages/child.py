"""A child process that takes the text out of one page after another, with limits on memory and time.

A page that goes over a limit, or on which a library dies, costs that page and a new child. The two talk over pipes:
lengths, then a request in JSON and the bytes of a page; a length, then the answer in JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Any

from harness.json_text import parse_json
from harness.limited_child import limit_memory
from harness.parent_death import follow_parent
from harness.text import size_text

TOO_SLOW = "too slow"
TOO_MUCH_MEMORY = "too much memory"
BREAKS_READER = "breaks its reader"

_ASKED = struct.Struct("<QQ")
_ANSWERED = struct.Struct("<Q")
_OUT_OF_MEMORY = 4
_SECONDS_TO_START = 120.0
_BYTES_PER_SECOND = 100_000
"""Slower than any page that means well."""
_START = (
    "import sys; sys.path[:] = sys.argv[3:]; import data_prep.text.pages.child as c; c.main(int(sys.argv[1]), "
    "int(sys.argv[2]))"
)


class PageReader:
    """Asks a child for the text of pages, and starts another one where that one is lost."""

    def __init__(self, memory_bytes: int, seconds: float) -> None:
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PageReader:
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self._end()

    def read(self, request: dict[str, Any], content: bytes) -> dict[str, str]:
        """Return what `extraction.answer` says of a page, or `rejected` with the limit that it went over.

        Raises:
            RuntimeError: No child can be started.
        """
        child = self._child or self._started()
        asked = json.dumps(request).encode()
        seconds = self._seconds + len(content) / _BYTES_PER_SECOND
        message = _ASKED.pack(len(asked), len(content)) + asked
        found, is_late = self._exchanged(child, message, content, seconds)
        if found is not None:
            return found
        self._end()
        if is_late:
            return {"rejected": f"{TOO_SLOW}: more than {seconds:.0f} s"}
        code = child.wait()
        if code == _OUT_OF_MEMORY:
            return {"rejected": f"{TOO_MUCH_MEMORY}: more than {size_text(self._memory_bytes)}"}
        word = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"rejected": f"{BREAKS_READER}: {word}"}

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _START, str(self._memory_bytes), str(os.getpid()), *sys.path]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._child = child
        found, _ = self._exchanged(child, b"", b"", _SECONDS_TO_START)
        if found != {}:
            self._end()
            raise RuntimeError(f"the process that reads pages does not start (exit code {child.returncode})")
        return child

    @staticmethod
    def _exchanged(
        child: subprocess.Popen[bytes], message: bytes, content: bytes, seconds: float
    ) -> tuple[dict[str, str] | None, bool]:
        """Return the answer (None if the child is lost), and whether it took too long."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            child.kill()

        timer = threading.Timer(seconds, give_up)
        timer.start()
        try:
            if child.stdin is None or child.stdout is None:
                raise AssertionError("a child without pipes")
            child.stdin.write(message)
            child.stdin.write(content)
            child.stdin.flush()
            head = child.stdout.read(_ANSWERED.size)
            size = _ANSWERED.unpack(head)[0] if len(head) == _ANSWERED.size else 0
            answer = child.stdout.read(size)
        except BrokenPipeError:
            return None, is_late.is_set()
        finally:
            timer.cancel()
            timer.join()
        if not size or len(answer) < size or is_late.is_set():
            return None, is_late.is_set()
        found: dict[str, str] = parse_json(answer)
        return found, False

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                _close(pipe)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # what was buffered is for nobody
        return


def main(memory_bytes: int, parent: int) -> None:
    """Answer requests on standard input until it ends: the child's side."""
    from data_prep.text.pages.extraction import answer, prepare

    follow_parent(signal.SIGKILL, parent)
    asked, answered = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    prepare()
    limit_memory(memory_bytes)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _send(answered, {})
    while head := asked.read(_ASKED.size):
        request_bytes, content_bytes = _ASKED.unpack(head)
        try:
            request = asked.read(request_bytes)
            _send(answered, answer(request, asked.read(content_bytes)))
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)


def _send(stream: IO[bytes], found: dict[str, str]) -> None:
    content = json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
    stream.write(_ANSWERED.pack(len(content)) + content)
    stream.flush()
