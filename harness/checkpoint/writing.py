"""A checkpoint that each rank writes, beside training in a process of its own, or at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

from harness.checkpoint.counted import Records
from harness.checkpoint.forked_results import ForkedResults


class Writing:
    """A checkpoint that is being written."""

    def __init__(
        self,
        request: Any,  # noqa: ANN401 (Megatron's type)
        results: ForkedResults,
        conclude: Callable[[], Records],
        *,
        beside: bool,
    ) -> None:
        """Start the writing of Megatron's request, or without `beside` write it. All ranks then run `conclude`."""
        self._results, self._conclude = results, conclude
        self._process: BaseProcess | None = None
        self.not_beside: str | None = None
        """Reason why training had to wait for this rank's writing; None if it did not."""
        if request.async_fn is None:  # a rank may have nothing to write
            results.put_measured()
            return
        arguments = list(request.async_fn_args)
        if request.preload_fn:
            arguments[1] = request.preload_fn()  # from the GPU; on the CPU the fork itself is the copy
        write = partial(request.async_fn, *arguments, **request.async_fn_kwargs)
        if not beside:
            write()
            return
        try:
            self._process = results.fork(write)
        except OSError as error:  # no process or no memory for one: training waits, which is better than no save
            self.not_beside = error.strerror or str(error)
            write()

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
