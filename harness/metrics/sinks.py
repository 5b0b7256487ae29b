"""The sinks of a run's metrics. A new sink is a class with the methods of `Sink` and an entry in `SINKS`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TextIO

from harness.config.schema import LoggingConfig
from harness.metrics.console import Console
from harness.metrics.jsonl import JsonlSink
from harness.metrics.tensorboard import EventFile
from harness.run.append import OpenFile, open_unbuffered
from harness.run.paths import RunDir
from harness.run.records import StepRecord


class Sink(Protocol):
    """A place that metrics go to. What its methods raise becomes a warning with its name, and training goes on.

    Only a person's interrupt (`KeyboardInterrupt`) passes.
    """

    name: str
    """Named so in warnings: `metrics.jsonl`."""

    def step(self, record: StepRecord, *, is_repeated: bool) -> None:
        """Take the metrics of a step; repeated ones were shown to people when they were new."""

    def rewind(self, step: int) -> None:
        """Forget the steps from this one on: repeated ones follow."""

    def close(self) -> None:
        """Write what still waits and let go of everything."""


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """The parts of the outside world that the recorder uses; tests give their own."""

    stream: TextIO | None = None
    """Stream for console lines. Default: standard output at the time the recorder is made."""
    open_file: OpenFile = open_unbuffered
    """Opens `metrics.jsonl` and `events.jsonl` for appending."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    require_owner: Callable[[], None] = lambda: None
    """Called before every line: raises a `HarnessError` where the run is no longer ours to write in."""
    hand: Callable[[Callable[[], object]], None] = lambda act: None if act() else None
    """Does an act, at once or later, after those that it got before. All that the recorder writes goes through it."""


@dataclass(frozen=True, kw_only=True)
class SinkContext:
    """The facts of a launch that sinks are made from."""

    run_dir: RunDir
    logging: LoggingConfig
    resume_step: int
    """Last step done before this launch, 0 in a new run."""
    outlets: Outlets
    console: Console
    warn: Callable[[str], None]
    """Shows a line to people; never raises."""
    tell_loss: Callable[[str, str], None]
    """Tells people, and the events, what happened to the output of this name; never raises."""
    is_ours: Callable[[], bool]
    """Returns whether the run is still ours to write in."""


@dataclass(frozen=True, kw_only=True)
class SinkKind:
    """A kind of sink: whether a run has it, and how it is opened."""

    what: str
    """Named so where it cannot be opened: `no TensorBoard files`."""
    is_wanted: Callable[[LoggingConfig], bool]
    open: Callable[[SinkContext], Sink]
    """May raise anything: the run then goes on without the sink."""


def _jsonl(context: SinkContext) -> Sink:
    return JsonlSink(
        context.run_dir.metrics,
        context.outlets.open_file,
        is_ours=context.is_ours,
        warn=context.warn,
        tell_loss=context.tell_loss,
    )


def _tensorboard(context: SinkContext) -> Sink:
    folder, clock = context.run_dir.tensorboard, context.outlets.clock
    return EventFile(folder, purge_step=context.resume_step + 1, clock=clock, tell_loss=context.tell_loss)


SINKS = (
    SinkKind(what="metrics", is_wanted=lambda logging: True, open=_jsonl),
    SinkKind(what="TensorBoard files", is_wanted=lambda logging: logging.tensorboard, open=_tensorboard),
    SinkKind(what="console", is_wanted=lambda logging: True, open=lambda context: context.console),
)
"""All kinds, in the order in which they get a step."""


def open_sinks(context: SinkContext) -> Iterator[tuple[str, Sink]]:
    """Yield the sinks of a run with their names. Those that cannot be opened are a warning on the console."""
    for kind in SINKS:
        if not kind.is_wanted(context.logging):
            continue
        try:
            sink = kind.open(context)
            opened = str(getattr(sink, "name", kind.what)), sink
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 (a place for metrics must not keep a run from starting)
            if isinstance(error, ImportError) and error.name:
                package = error.name.partition(".")[0]
                context.warn(f"warning: no {kind.what}, the package `{package}` is not installed")
            else:
                context.warn(f"warning: no {kind.what}: {reason_of(error)}")
        else:
            yield opened


def reason_of(error: BaseException) -> str:
    """Return an error on one line, even if its own text cannot be made."""
    try:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        text = "".join(filter(str.isprintable, " ".join(text.split())))
    except Exception:  # noqa: BLE001 (by a foreign `__str__`)
        text = ""
    return text if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
