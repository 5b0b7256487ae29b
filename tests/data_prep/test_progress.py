from __future__ import annotations

import io

import pytest
from rich.console import Console

from data_prep.progress import LineProgress, readable_seconds, shown_progress
from data_prep.totals import Totals


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_log_gets_a_line_every_so_many_seconds() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = LineProgress("tokenize zh", 400_000_000, lines.append, clock, every_s=10)
    for seconds, megabytes in ((1, 10), (20, 100), (25, 150), (31, 200)):
        clock.now_s = 100.0 + seconds
        progress(Totals(documents=1000 * megabytes, tokens=10**6, rejected=megabytes // 200), megabytes * 10**6)
    assert lines == [
        "tokenize zh: 25.0%, 5.0 MB/s, 100,000 documents, 1,000,000 tokens, 60 s left",
        "tokenize zh: 50.0%, 6.5 MB/s, 200,000 documents, 1,000,000 tokens, 1 rejected, 31 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e9, "277777.8 h")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert readable_seconds(seconds) == said


def test_time_left_is_unknown_before_anything_is_read() -> None:
    assert readable_seconds(float("inf")) == "unknown time"


def test_a_terminal_gets_a_bar_with_the_numbers() -> None:
    screen = io.StringIO()
    with shown_progress("tokenize zh", 100, Console(file=screen, force_terminal=True, width=150)) as progress:
        progress(Totals(documents=1234, tokens=56_789), 50)
    assert "tokenize zh" in screen.getvalue()
    assert "1,234 documents, 56,789 tokens" in screen.getvalue()


def test_a_file_gets_no_bar() -> None:
    file = io.StringIO()
    with shown_progress("tokenize zh", 100, Console(file=file)) as progress:
        progress(Totals(documents=1), 50)
    assert file.getvalue() == ""
