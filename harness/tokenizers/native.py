"""The border around the native libraries of tokenizers: every call of them, on a text or a file of others, is in here.

A Rust library panics where it meets what its authors did not expect, and a panic is no `Exception`. A pattern that
backtracks may work for hours on one document. Both become an error that names the tokenizer, and the document if it is
known. What can be found out beforehand is tried out in a child process (`harness.tokenizers.trial`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from harness.errors import DataError, HarnessError
from harness.text import one_line

Item = TypeVar("Item")
Result = TypeVar("Result")

SECONDS = 20.0
"""Processor time that any batch of documents may take."""
SECONDS_ALONE = 5.0
"""The same for a document alone, when the one is looked for that takes so long."""
SLOWEST = 10_000
"""Characters per second of processor time that a library encodes at least, on top; slow ones do 200,000."""
_LOOK_S = 0.5
_MOST_SHOWN = 300
_TEXT_SHOWN = 60


class TooSlowError(Exception):
    """A call took more processor time than it may. It goes on in a thread that nobody waits for."""


def is_panic(error: BaseException) -> bool:
    """Return whether an error is the panic of a Rust library."""
    return type(error).__name__ == "PanicException"


@contextmanager
def explained(path: Path, problem: str, num_bytes: int | None = None) -> Iterator[None]:
    """Turn whatever a native library raises into an error about the tokenizer.

    Args:
        path: The tokenizer's file.
        problem: The failure in words, such as "not a readable tokenizer.json".
        num_bytes: Size of the file, where that says something about the failure.

    Raises:
        DataError: The library raised something; with its text.
    """
    try:
        yield
    except HarnessError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        size = "" if num_bytes is None else f"{num_bytes} bytes: "
        raise DataError(
            f"tokenizer {path}: {problem} ({size}{reason(error)}). The file may be truncated, or a Git LFS pointer: "
            "fetch it again."
        ) from error


def reason(error: BaseException) -> str:
    """Return the text of a library's error, in one short line."""
    name = "its library panics" if is_panic(error) else type(error).__name__
    text = one_line(str(error).strip())
    return f"{name}: {text[:_MOST_SHOWN]}" if text else name


def encoded(path: Path, documents: Sequence[str], encode: Callable[[list[str]], Result]) -> Result:
    """Return what a library makes of documents, within a limit on processor time. Ctrl-C ends it at once.

    Args:
        path: The tokenizer's file.
        documents: The texts.
        encode: Call of the library, which may be made again with some of the documents.

    Raises:
        DataError: It fails on a document, or takes too long; names the document.
    """
    try:
        return _within(SECONDS, list(documents), encode)
    except HarnessError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise DataError(_failure(path, documents, encode, error)) from error


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], num_threads: int) -> list[Result]:
    """Return the function's results, computed in threads that do not keep the process from ending.

    Raises:
        BaseException: The first one that the function raised.
    """
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    numbers = iter(range(len(items)))

    def work() -> None:
        for number in numbers:  # one iterator, of which each thread takes the next number
            if errors:
                return
            try:
                results[number] = function(items[number])
            except BaseException as error:  # noqa: BLE001 (it is raised by whoever waits)
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(num_threads, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]


def _within(seconds: float, documents: list[str], encode: Callable[[list[str]], Result]) -> Result:
    """Call in a thread that is left alone when it takes too long.

    Processor time counts, not the clock: a process that is stopped for a while has done nothing wrong.
    """
    allowed = seconds + sum(map(len, documents)) / SLOWEST
    found: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(encode(documents))
        except BaseException as error:  # noqa: BLE001 (it is raised by whoever waits)
            errors.append(error)

    begin = time.process_time()
    thread = threading.Thread(target=work, daemon=True, name="encode")
    thread.start()
    thread.join(_LOOK_S)
    while thread.is_alive():
        if time.process_time() - begin > allowed:
            raise TooSlowError(f"more than {allowed:.0f} s of processor time")
        thread.join(_LOOK_S)
    if errors:
        raise errors[0]
    return found[0]


def _failure(path: Path, documents: Sequence[str], encode: Callable[[list[str]], Result], error: BaseException) -> str:
    """Return what a batch of documents failed on: the first one that fails alone, if there is one."""
    end = time.process_time() + SECONDS
    for document in documents if len(documents) > 1 else ():
        if time.process_time() > end:
            break
        try:
            _within(SECONDS_ALONE, [document], encode)
        except BaseException as alone:
            if not isinstance(alone, Exception) and not is_panic(alone):
                raise
            return _cannot(path, "the document", document, alone)
    what = f"one of {len(documents):,} documents, of which the first" if len(documents) != 1 else "the document"
    return _cannot(path, what, documents[0] if documents else "", error)


def _cannot(path: Path, what: str, document: str, error: BaseException) -> str:
    begins = f"{what} begins with {one_line(document[:_TEXT_SHOWN])!r} and has {len(document):,} characters"
    if isinstance(error, TooSlowError):
        why = f"it takes {error}"
        advice = "Its pattern or its rules may need a time that grows out of all bounds: take another tokenizer"
    else:
        why, advice = reason(error), "Take another tokenizer"
    return f"tokenizer {path}: a text cannot be encoded: {why}; {begins}. {advice}, or take the document out."
