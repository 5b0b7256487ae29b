"""A checkpoint that each rank writes, beside training in a process of its own, or at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from harness.checkpoint.counted import Records
from harness.checkpoint.forked_results import ForkedResults

Copied = Callable[[Any], tuple[Any, Callable[[], None]]]
"""Begins to copy what is to be written; returns the copies, and a function that waits until they are complete."""


class Writing:
    """A checkpoint that is being written."""

    def __init__(
        self,
        request: Any,  # noqa: ANN401 (Megatron's type)
        results: ForkedResults,
        conclude: Callable[[], Records],
        *,
        beside: bool,
        copied: Copied | None = None,
    ) -> None:
        """Start the writing of Megatron's request, or without `beside` write it. All ranks then run `conclude`.

        On a GPU, `copied` begins the copy of what is written to the host's memory.
        """
        self._results, self._conclude = results, conclude
        self._process: BaseProcess | None = None
        self.not_beside: str | None = None
        """Reason why training had to wait for this rank's writing; None if it did not."""
        if request.async_fn is None:  # a rank may have nothing to write
            results.put_measured()
            return
        arguments = list(request.async_fn_args)
        wait = None
        if copied is not None:
            try:
                arguments[1], wait = copied(arguments[1])
            except OSError as error:  # no memory: as if the disk had none, so that all ranks hear of it
                results.put(error, {})
                return
        write = partial(request.async_fn, *arguments, **request.async_fn_kwargs)
        if not beside:
            _write_now(write, wait)
            return
        try:
            self._process = results.fork(write, wait)
        except OSError as error:  # no process or no memory for one: training waits, which is better than no save
            self.not_beside = error.strerror or str(error)
            _write_now(write, wait)

    @property
    def measured(self) -> list[float]:
        """Result of the request's `measure` on this rank, after `finish`."""
        return self._results.measured

    def is_done(self) -> bool:
        """Return whether this rank's process has written everything, or failed. Does not wait."""
        return self._process is None or self._results.has_come() or not self._process.is_alive()

    def finish(self) -> Records:
        """Wait for this rank's process, then run the common conclusion. Every rank must call it.

        Returns:
            On rank 0 the records of the files of all ranks.

        Raises:
            SaveFailedError: The disk refused something on some rank. Raised on every rank, with the same text.
        """
        if self._process is not None:
            self._results.wait(self._process)
        return self._conclude()

    def discard(self) -> None:
        """Stop writing. The next start removes what is there."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def _write_now(write: Callable[[], None], wait: Callable[[], None] | None) -> None:
    if wait is not None:
        wait()
    write()
