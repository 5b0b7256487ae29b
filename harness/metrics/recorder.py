"""The one place through which numbers, events and messages leave the trainer. Only global rank 0 has a recorder.

Nothing here can stop training but the loss of the run to another owner: what a sink raises becomes a warning on the
console. What a full or failing disk does not take waits, and is written when the disk takes it again. Everything is
written by whoever does the acts that the recorder hands over (`Outlets.hand`), in their order: in a run a thread, so
that no step waits for a file.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from harness.config.schema import LoggingConfig
from harness.errors import HarnessError
from harness.metrics.console import Console
from harness.metrics.jsonl import WaitingLines
from harness.metrics.sinks import Outlets, SinkContext, open_sinks, reason_of
from harness.run.event_base import StepEvent
from harness.run.event_types import FileLost
from harness.run.events import event_line
from harness.run.paths import RunDir
from harness.run.records import StepRecord

_WARN_EVERY_CALLS = 100


@dataclass(slots=True)
class _Trouble:
    """The failures of one output."""

    num_calls: int = 0
    num_failures: int = 0
    """Failures since it was last reported to work."""
    quiet_until_call: int = 0
    is_reported: bool = False


class Recorder:
    """Writes the metrics of one launch to its sinks, its events to `events.jsonl`, and messages to the console."""

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

        `resume_step` is the last step done before this launch, 0 in a new run. TensorBoard hides older points after it.
        The console shows the channels in their order.
        """
        outlets = outlets or Outlets()
        self._clock = outlets.clock
        self._require_owner = outlets.require_owner
        self._hand = outlets.hand
        self._troubles: defaultdict[str, _Trouble] = defaultdict(_Trouble)
        self._place = (0, resume_step)
        self._losses: list[tuple[str, str]] = []
        self._events = WaitingLines(
            run_dir.events,
            outlets.open_file,
            is_ours=self._is_ours,
            warn=self.message,
            tell_loss=self._note_loss,
            is_shared=True,
        )
        self._console = Console(
            outlets.stream or sys.stdout,
            train_steps=train_steps,
            resume_step=resume_step,
            channels=channels,
            clock=outlets.clock,
            every_steps=logging.console_every_steps,
        )
        context = SinkContext(
            run_dir=run_dir,
            logging=logging,
            resume_step=resume_step,
            outlets=outlets,
            console=self._console,
            warn=self.message,
            tell_loss=self._note_loss,
            is_ours=self._is_ours,
        )
        self._sinks = tuple(open_sinks(context))

    def step(self, record: StepRecord) -> None:
        """Record a step, with the result of an evaluation after it.

        Raises:
            HarnessError: What `require_owner` raises, now or for an earlier line.
        """
        self._hand(partial(self._write, record, is_repeated=False))

    def repeat(self, records: Iterable[StepRecord]) -> None:
        """Record steps from before this launch once more, by rising step. Their earlier records no longer count.

        Raises:
            HarnessError: What `require_owner` raises, now or for an earlier line.
        """
        self._hand(partial(self._repeat, records))

    def event(self, event: StepEvent) -> None:
        """Append an event of this moment to `events.jsonl`.

        Raises:
            HarnessError: What `require_owner` raises, now or for an earlier line.
        """
        self._hand(partial(self._take_event, event, self._clock()))

    def message(self, text: str) -> None:
        """Show text to people."""
        self._hand(partial(self._show, text))

    def close(self) -> None:
        """Write what still waits, as far as the disk takes it, and close everything."""
        self._hand(self._close)

    def _repeat(self, records: Iterable[StepRecord]) -> None:
        for number, record in enumerate(records):
            if number == 0:
                for name, sink in self._sinks:
                    self._try(name, partial(sink.rewind, record.step), is_writing=False)
            self._write(record, is_repeated=True)

    def _take_event(self, event: StepEvent, time_s: float) -> None:
        self._require_owner()
        self._place = event.attempt, event.step
        self._append(event, time_s)
        self._tell_losses()

    def _show(self, text: str) -> None:
        with suppress(Exception):  # there is no other place to complain at
            self._console.show(text)

    def _close(self) -> None:
        self._try(self._events.name, self._events.close)
        for name, sink in self._sinks:
            self._try(name, sink.close)

    def _write(self, record: StepRecord, *, is_repeated: bool) -> None:
        self._require_owner()
        for name, sink in self._sinks:
            self._try(name, partial(sink.step, record, is_repeated=is_repeated))
        self._place = record.attempt, record.step
        self._tell_losses()

    def _append(self, event: StepEvent, time_s: float) -> None:
        line = event_line(event, time_s) + "\n"
        self._try(self._events.name, partial(self._events.append, line))

    def _note_loss(self, name: str, found: str) -> None:
        self._losses.append((name, found))

    def _tell_losses(self) -> None:
        """Tell people and the events of outputs that somebody removed, replaced or cut."""
        losses, self._losses = self._losses, []
        for name, found in losses:
            text = f"{name} {found}: what it had is gone, and what follows is in a file of that name"
            self.message(f"warning: {text}")
            attempt, step = self._place
            self._append(FileLost(attempt=attempt, step=step, file=name, reason=text), self._clock())

    def _is_ours(self) -> bool:
        try:
            self._require_owner()
        except HarnessError:
            return False
        return True

    def _try(self, name: str, write: Callable[[], None], *, is_writing: bool = True) -> None:
        """Write, or warn of a failure, and later of the end of the failures; at most once in a hundred calls.

        Only an interrupt by a person passes: even what would end the process (`sys.exit` in a client library) becomes a
        warning.
        """
        trouble = self._troubles[name]
        trouble.num_calls += 1
        try:
            write()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 (whatever a sink raises, training goes on)
            trouble.num_failures += 1
            if trouble.num_calls > trouble.quiet_until_call:
                trouble.quiet_until_call = trouble.num_calls + _WARN_EVERY_CALLS - 1
                trouble.is_reported = True
                self.message(f"warning: cannot write {name}: {reason_of(error)}; training goes on")
        else:
            if is_writing and trouble.is_reported:
                self.message(f"{name} is written again, after {trouble.num_failures} failures")
                trouble.num_failures, trouble.is_reported = 0, False
