"""Lines of JSON in a file of the run: what the disk does not take waits, and is written when it takes it again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.run.append import JsonLines, OpenFile
from harness.run.records import StepRecord, to_json_line


class WaitingLines:
    """Appends lines to a file; an error says how many of them wait."""

    def __init__(
        self,
        path: Path,
        open_file: OpenFile,
        *,
        is_ours: Callable[[], bool],
        warn: Callable[[str], None],
        tell_loss: Callable[[str, str], None],
        is_shared: bool = False,
    ) -> None:
        """Take the path; nothing is opened yet. `tell_loss` gets the file's name, and what happened to it."""
        self.name = path.name
        self._path = path
        self._lines = JsonLines(path, open_file, is_shared=is_shared, tell_loss=partial(tell_loss, self.name))
        self._is_ours = is_ours
        self._warn = warn

    def append(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: The disk did not take it; it waits for the next line.
        """
        try:
            self._lines.append(line)
        except OSError as error:
            waiting = f"{self._lines.num_waiting} lines wait for room on the disk"
            raise OSError(error.errno, f"{error.strerror or error}; {waiting}") from error

    def close(self) -> None:
        """Write what still waits if the run is still ours, as far as the disk takes it, and close the file.

        Raises:
            OSError: Lines are lost.
        """
        try:
            if self._lines.num_waiting and self._is_ours():
                self._lines.write_waiting()
        finally:
            num_lost = self._lines.num_waiting
            self._lines.close()
            if num_lost:
                self._warn(f"warning: {num_lost} lines of {self.name} are lost: {self._path} did not take them")


class JsonlSink(WaitingLines):
    """The sink that is always there: `metrics.jsonl`, one line a step."""

    def step(self, record: StepRecord, *, is_repeated: bool) -> None:
        """Append the step's line; of two lines of a step, readers take the later one."""
        self.append(to_json_line(record))

    def rewind(self, step: int) -> None:
        """Do nothing: the lines to come say so themselves."""
