"""The one place through which numbers, events and messages leave the trainer. Only global rank 0 has a recorder.

Nothing here stops training. If the disk is full or fails, a warning appears on the console, and the lines wait until
the disk takes them again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from harness.config.schema import LoggingConfig
from harness.errors import HarnessError
from harness.metrics.console import Console, has_evaluation
from harness.metrics.tensorboard import EventFile
from harness.run.append import JsonLines, OpenFile, open_unbuffered
from harness.run.events import StepEvent, event_line
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line

_WARN_EVERY_FAILURES = 100


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """The recorder's access to the outside world. Tests replace it."""

    stream: TextIO | None = None
    """Stream of the console. Default: standard output at the time the recorder is made."""
    open_file: OpenFile = open_unbuffered
    """Opens `metrics.jsonl` and `events.jsonl` for appending."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    require_owner: Callable[[], None] = lambda: None
    """Called before every line. Raises a `HarnessError` if another process has taken the run over."""


class Recorder:
    """Writes `metrics.jsonl`, `events.jsonl`, TensorBoard and the console of one launch."""

    def __init__(
        self,
        run_dir: RunDir,
        logging: LoggingConfig,
        *,
        train_steps: int,
        channels: Iterable[str],
        resume_step: int,
        outlets: Outlets | None = None,
    ) -> None:
        """Open the outputs; the run's directory must exist.

        Args:
            run_dir: The run.
            logging: What is shown, and how often.
            train_steps: Step at which training ends.
            channels: Order in which the console shows channels.
            resume_step: Last step done before this launch, 0 in a new run. TensorBoard hides older points after it.
            outlets: Access to the outside world.
        """
        outlets = outlets or Outlets()
        self._clock = outlets.clock
        self._require_owner = outlets.require_owner
        self._every_steps = logging.console_every_steps
        self._train_steps = train_steps
        self._metrics = JsonLines(run_dir.metrics, outlets.open_file)
        self._events = JsonLines(run_dir.events, outlets.open_file, is_shared=True)
        self._num_failures: dict[str, int] = {}
        self._console = Console(
            outlets.stream or sys.stdout,
            train_steps=train_steps,
            resume_step=resume_step,
            channels=channels,
            clock=outlets.clock,
        )
        self._event_file = self._open_event_file(run_dir, resume_step + 1) if logging.tensorboard else None

    def step(self, record: StepRecord) -> None:
        """Record a step, with the result of an evaluation after it.

        Raises:
            HarnessError: What `require_owner` raises.
        """
        self._write(record)
        self._console.advance(record.step)
        if record.step % self._every_steps == 0 or record.step == self._train_steps:
            self._console.show_step(record)
        if has_evaluation(record):
            self._console.show_evaluation(record)

    def repeat(self, records: Sequence[StepRecord]) -> None:
        """Record steps from before this launch once more, by rising step. Their earlier records no longer count.

        Raises:
            HarnessError: What `require_owner` raises.
        """
        if records and (event_file := self._event_file) is not None:
            self._try("TensorBoard", lambda: event_file.purge(records[0].step))
        for record in records:
            self._write(record)

    def event(self, event: StepEvent) -> None:
        """Append an event to `events.jsonl`.

        Raises:
            HarnessError: What `require_owner` raises.
        """
        self._require_owner()
        line = event_line(event, self._clock()) + "\n"
        self._try("events.jsonl", lambda: self._events.append(line), self._events)

    def message(self, text: str) -> None:
        """Show a text to people."""
        self._console.show(text)

    def close(self) -> None:
        """Write the waiting lines, as far as the disk takes them, and close everything."""
        for name, lines in (("metrics.jsonl", self._metrics), ("events.jsonl", self._events)):
            if lines.num_waiting and self._is_ours():
                self._try(name, lines.write_waiting, lines)
            if lines.num_waiting:
                self.message(f"warning: {lines.num_waiting} lines of {name} are lost: {lines.path} did not take them")
            lines.close()
        if self._event_file is not None:
            self._try("TensorBoard", self._event_file.close)
        self._console.close()

    def _write(self, record: StepRecord) -> None:
        self._require_owner()
        self._try("metrics.jsonl", lambda: self._metrics.append(to_json_line(record)), self._metrics)
        if (event_file := self._event_file) is not None:
            self._try("TensorBoard", lambda: event_file.add(record.step, record.time, record.values))

    def _is_ours(self) -> bool:
        try:
            self._require_owner()
        except HarnessError:
            return False
        return True

    def _open_event_file(self, run_dir: RunDir, purge_step: int) -> EventFile | None:
        try:
            return EventFile(run_dir.tensorboard, purge_step=purge_step, clock=self._clock)
        except ImportError:
            self.message("warning: no TensorBoard files, the package `tensorboard` is not installed")
        except OSError as error:
            self.message(f"warning: no TensorBoard files: {error}")
        return None

    def _try(self, name: str, write: Callable[[], None], lines: JsonLines | None = None) -> None:
        """Run `write`, and warn at the first failure, at every hundredth, and when writing works again."""
        try:
            write()
        except OSError as error:
            failures = self._num_failures[name] = self._num_failures.get(name, 0) + 1
            if failures % _WARN_EVERY_FAILURES == 1:
                waiting = f"; {lines.num_waiting} lines wait for room on the disk" if lines else ""
                self.message(f"warning: cannot write {name}: {error.strerror or error}{waiting}; training goes on")
        else:
            if failures := self._num_failures.pop(name, 0):
                self.message(f"{name} is written again, after {failures} failures")
