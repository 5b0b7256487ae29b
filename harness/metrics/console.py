"""Output for people during training: one line every few steps, and on a terminal a progress bar below the lines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from harness.run import metric_names as names
from harness.run.records import StepRecord
from harness.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_STEPS_REMEMBERED = 100


class Console:
    """The sink that writes lines to a stream. If the stream is closed or full, lines are lost without a warning."""

    name = "console"

    def __init__(
        self,
        stream: TextIO,
        *,
        train_steps: int,
        resume_step: int,
        channels: Iterable[str],
        clock: Callable[[], float],
        every_steps: int = 1,
    ) -> None:
        """Open the console; the bar appears only if the stream is a terminal.

        `resume_step` is the last step that was done before this launch. A line is shown every `every_steps` steps, and
        for the last step.
        """
        self._stream = stream
        self._train_steps = train_steps
        self._channels = tuple(channels)
        self._clock = clock
        self._every_steps = every_steps
        self._done: deque[tuple[int, float]] = deque([(resume_step, clock())], maxlen=_STEPS_REMEMBERED)
        self._bar = _bar(stream, train_steps, resume_step) if stream.isatty() else None

    def step(self, record: StepRecord, *, is_repeated: bool) -> None:
        """Show a step if it is due, and the evaluation after it. Steps that were shown before are not shown again."""
        if is_repeated:
            return
        self.advance(record.step)
        is_step = names.LM_LOSS in record.values  # before the first step there is an evaluation only
        if is_step and (record.step % self._every_steps == 0 or record.step == self._train_steps):
            self.show(step_line(record, self._train_steps, self._channels, self.seconds_left()))
        if has_evaluation(record):
            self.show(evaluation_line(record, self._channels))
            if needles := needle_line(record):
                self.show(needles)

    def rewind(self, step: int) -> None:
        """Do nothing: repeated steps are not shown."""

    def advance(self, step: int) -> None:
        """Note that a step is done, for the bar and the time left."""
        if step <= self._done[-1][0]:  # rewound: times from before say nothing about the steps to come
            self._done.clear()
        self._done.append((step, self._clock()))
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=step, left=_left_text(self.seconds_left()))

    def seconds_left(self) -> float | None:
        """Return the time until the last step at the recent pace, saves and evaluations included, or None."""
        (first_step, first_time), (last_step, last_time) = self._done[0], self._done[-1]
        if last_step == first_step:
            return None
        return (last_time - first_time) / (last_step - first_step) * (self._train_steps - last_step)

    def show(self, text: str) -> None:
        """Write a text."""
        shown = printable(text)
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            if self._bar is not None:
                self._bar[0].console.print(shown, markup=False, highlight=False, soft_wrap=True)
            else:
                self._stream.write(shown + "\n")
                self._stream.flush()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar[0].stop()


def step_line(record: StepRecord, train_steps: int, channels: tuple[str, ...], seconds_left: float | None) -> str:
    """Return the line about a step. Unknown values are left out."""
    width = len(str(train_steps))
    losses = [(channel, names.lm_loss_of(channel), ".4f") for channel in channels]
    fields = [
        ("loss", names.LM_LOSS, ".4f"),
        *losses,
        ("grad", names.GRAD_NORM, ".3f"),
        ("lr", names.LEARNING_RATE, ".3e"),
        ("time", names.STEP_TIME_S, ".3f"),
        ("tok/s/gpu", names.TOKENS_PER_SECOND_PER_GPU, ",.0f"),
        ("TFLOP/s", names.TFLOPS_PER_GPU, ",.1f"),
        ("MFU%", names.MFU_PCT, ".1f"),
        ("GiB", names.MEMORY_GIB, ".1f"),
    ]
    values = {name: value for name, value in record.values.items() if not _is_too_small_to_show(name, value)}
    texts = [f"{label} {values[name]:{form}}" for label, name, form in fields if name in values]
    if record.values.get(names.SKIPPED):
        texts.insert(0, "NOT APPLIED")
    if seconds_left is not None:
        texts.append(f"left {_left_text(seconds_left)}")
    return "  ".join([f"step {record.step:>{width}}/{train_steps}", *texts])


def _is_too_small_to_show(name: str, value: float) -> bool:
    """Return whether a value is a speed that would read `0.0`, such as that of a toy model on a CPU."""
    return name in (names.TFLOPS_PER_GPU, names.MFU_PCT) and value < 0.05


def evaluation_line(record: StepRecord, channels: tuple[str, ...]) -> str:
    """Return the line about the held-out losses in a record."""
    texts = []
    for channel in channels:
        loss = record.values.get(names.valid_lm_loss_of(channel))
        bits = record.values.get(names.valid_bits_per_byte_of(channel))
        if loss is not None:
            texts.append(f"{channel} {loss:.4f}" + ("" if bits is None else f" ({bits:.3f} bits/byte)"))
    return "  ".join([f"held-out loss at step {record.step}:", *texts])


def needle_line(record: StepRecord) -> str | None:
    """Return the line about needles in a record, by depth; None if there were none."""
    prefix = names.valid_needle_loss_of("")
    losses = {name.removeprefix(prefix): loss for name, loss in record.values.items() if name.startswith(prefix)}
    if not losses:
        return None
    texts = (f"{depth} % {loss:.2f}" for depth, loss in losses.items())
    return "  ".join([f"needles at step {record.step}, loss by depth:", *texts])


def has_evaluation(record: StepRecord) -> bool:
    """Return whether the record carries held-out losses."""
    return any(name.startswith(names.valid_lm_loss_of("")) for name in record.values)


def _left_text(seconds: float | None) -> str:
    """Return the time left as `4:05`, `1:02:03` or `3d 04:00`."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def _bar(stream: TextIO, train_steps: int, resume_step: int) -> tuple[Progress, TaskID]:
    """Return a running bar on the stream. Rich is imported only here: it costs a tenth of a second."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from harness.screen import Screen as Terminal

    columns = (BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left {task.fields[left]}"))
    bar = Progress(*columns, console=Terminal(file=stream), refresh_per_second=2)
    task = bar.add_task("steps", total=train_steps, completed=resume_step, left="?")
    bar.start()
    return bar, task
