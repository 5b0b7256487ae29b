from __future__ import annotations

import io
import math
import re

import pytest

from harness.metrics.console import Console, evaluation_line, has_evaluation, needle_line, step_line
from harness.run import metric_names as names
from harness.run.records import StepRecord

EVERYTHING = {
    names.LM_LOSS: 4.25,
    names.lm_loss_of("en"): 4.0,
    names.lm_loss_of("zh"): 4.5,
    names.GRAD_NORM: 1.25,
    names.LEARNING_RATE: 3e-4,
    names.STEP_TIME_S: 0.5,
    names.TOKENS_PER_SECOND_PER_GPU: 12345.6,
    names.TFLOPS_PER_GPU: 412.34,
    names.MFU_PCT: 41.6,
    names.MEMORY_GIB: 62.06,
    names.SKIPPED: 0.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(step: int, **values: float) -> StepRecord:
    return StepRecord(
        attempt=0,
        step=step,
        time=0.0,
        phase="main",
        consumed_samples=0,
        consumed_tokens=0,
        batch_hash=0,
        values=values,
    )


def console(stream: io.StringIO, clock: Clock, *, train_steps: int = 100, resume_step: int = 0) -> Console:
    return Console(stream, train_steps=train_steps, resume_step=resume_step, channels=("zh", "en"), clock=clock)


def test_a_line_shows_everything_known_with_channels_in_the_order_of_the_configuration() -> None:
    assert step_line(record(7, **EVERYTHING), 2000, ("zh", "en"), 3723.4) == (
        "step    7/2000  loss 4.2500  zh 4.5000  en 4.0000  grad 1.250  lr 3.000e-04  time 0.500  "
        "tok/s/gpu 12,346  TFLOP/s 412.3  MFU% 41.6  GiB 62.1  left 1:02:03"
    )


def test_a_line_leaves_out_what_is_not_known() -> None:
    assert step_line(record(7, **{names.LM_LOSS: math.nan}), 10, ("zh",), None) == "step  7/10  loss nan"


def test_a_step_that_was_not_applied_is_visible() -> None:
    assert step_line(record(1, **{names.SKIPPED: 1.0}), 9, (), None) == "step 1/9  NOT APPLIED"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (65.4, "1:05"), (3599.6, "1:00:00"), (86400 + 3660, "1d 01:01"), (math.inf, "?")],
)
def test_time_left_reads_like_a_clock(seconds: float, text: str) -> None:
    assert step_line(record(1), 9, (), seconds).endswith(f"left {text}")


def test_evaluation_line() -> None:
    values = {
        names.valid_lm_loss_of("en"): 4.0,
        names.valid_lm_loss_of("zh"): 4.5,
        names.valid_bits_per_byte_of("zh"): 1.25,
    }
    assert has_evaluation(record(8, **values))
    assert not has_evaluation(record(8, **EVERYTHING))
    assert evaluation_line(record(8, **values), ("zh", "en")) == (
        "held-out loss at step 8:  zh 4.5000 (1.250 bits/byte)  en 4.0000"
    )


def test_needle_line() -> None:
    values = {names.valid_needle_loss_of(depth): loss for depth, loss in ((0, 3.14159), (50, 0.5), (90, 0.001))}
    assert needle_line(record(8, **values)) == "needles at step 8, loss by depth:  0 % 3.14  50 % 0.50  90 % 0.00"
    assert needle_line(record(8, **EVERYTHING)) is None


def test_time_left_follows_the_recent_pace_and_starts_at_the_resumed_step() -> None:
    clock = Clock()
    shown = console(io.StringIO(), clock, train_steps=1000, resume_step=500)
    assert shown.seconds_left() is None
    for step in range(501, 511):
        clock.now += 2.0
        shown.advance(step)
    assert shown.seconds_left() == pytest.approx(2.0 * 490)
    for step in range(511, 701):
        clock.now += 3.0
        shown.advance(step)
    assert shown.seconds_left() == pytest.approx(3.0 * 300)


def test_a_rewind_does_not_make_the_time_left_negative() -> None:
    clock = Clock()
    shown = console(io.StringIO(), clock)
    for step in (1, 2, 3, 2, 3):
        clock.now += 1.0
        shown.advance(step)
    assert shown.seconds_left() == pytest.approx(97.0)


def test_a_log_gets_plain_lines() -> None:
    stream = io.StringIO()
    shown = console(stream, Clock())
    shown.step(record(1, **{names.LM_LOSS: 4.0}), is_repeated=False)
    shown.show("[bold]as it is[/bold] :smile:")
    shown.close()
    assert stream.getvalue() == "step   1/100  loss 4.0000  left 0:00\n[bold]as it is[/bold] :smile:\n"


def test_a_terminal_gets_a_bar_below_the_lines() -> None:
    stream, clock = Terminal(), Clock()
    shown = console(stream, clock)
    clock.now += 60.0
    shown.advance(1)
    shown.show("a line [1]")
    shown.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "a line [1]" in text
    last_line = text.rstrip().splitlines()[-1]
    assert "1/100" in last_line
    assert last_line.rstrip().endswith("left 1:39:00")


def test_a_stream_that_fails_loses_lines_and_nothing_else() -> None:
    stream = io.StringIO()
    shown = console(stream, Clock())
    stream.close()
    shown.show("lost")
    shown.close()


@pytest.mark.parametrize(("tflops", "shown"), [(0.0321, False), (0.3, True), (412.0, True)])
def test_a_speed_that_would_read_zero_is_left_out(tflops: float, shown: bool) -> None:
    line = step_line(record(1, **{names.TFLOPS_PER_GPU: tflops}), 10, (), None)
    assert ("TFLOP/s" in line) == shown
