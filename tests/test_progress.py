from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.progress import LineProgress, seconds_text, shown, speed_text


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_log_gets_a_line_every_so_many_seconds() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress("convert", 40 * 10**9, lines.append, clock, every_s=10)
    for seconds, gigabytes, counts in ((1, 1, ""), (10, 9, ""), (15, 5, "a"), (21, 5, "7 files")):
        clock.now_s = 100.0 + seconds
        progress(gigabytes * 10**9, counts)
    assert lines == ["convert: 25.0%, 1.00 GB/s, 30 s left", "convert: 50.0%, 952.4 MB/s, 7 files, 21 s left"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e9, "277777.8 h")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert seconds_text(seconds) == said


def test_time_left_is_unknown_before_anything_is_done() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress("convert", 100, lines.append, clock, every_s=0)
    progress(0)
    assert lines == ["convert: 0.0%, 0.0 MB/s, unknown time left"]


@pytest.mark.parametrize(
    ("num_bytes", "elapsed_s", "said"),
    [(0, 0.0, "0.0 MB/s"), (5 * 10**6, 2.0, "2.5 MB/s"), (3 * 10**9, 2.0, "1.50 GB/s")],
)
def test_speeds(num_bytes: int, elapsed_s: float, said: str) -> None:
    assert speed_text(num_bytes, elapsed_s) == said


def test_a_terminal_gets_a_bar_with_the_numbers_and_a_title_as_it_is() -> None:
    screen = io.StringIO()
    with shown("merge [zh]", 100, Console(file=screen, force_terminal=True, width=150)) as progress:
        progress(50, "1,234 documents")
        progress(25, "2,468 documents")
    assert "merge [zh]" in screen.getvalue()
    assert "MB/s, 2,468 documents" in screen.getvalue()


def test_a_file_gets_no_bar() -> None:
    file = io.StringIO()
    with shown("merge", 100, Console(file=file)) as progress:
        progress(50)
    assert file.getvalue() == ""
