from __future__ import annotations

import io

from rich.console import Console

from data_prep.channels.totals import describe, shown_progress
from harness.channels.source import Totals


def test_counts_in_one_phrase() -> None:
    assert describe(Totals(documents=1234, tokens=56_789)) == "1,234 documents, 56,789 tokens"
    assert describe(Totals(documents=1, tokens=2, rejected=3)) == "1 documents, 2 tokens, 3 rejected"


def test_a_terminal_gets_a_bar_with_the_counts() -> None:
    screen = io.StringIO()
    with shown_progress("tokenize zh", 100, Console(file=screen, force_terminal=True, width=150)) as progress:
        progress(Totals(documents=1, tokens=2), 20)
        progress(Totals(documents=1234, tokens=56_789), 100)
    assert "tokenize zh" in screen.getvalue()
    assert "1,234 documents, 56,789 tokens" in screen.getvalue()
    assert "100%" in screen.getvalue() or "0:00:00" in screen.getvalue()
