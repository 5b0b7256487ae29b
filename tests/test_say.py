"""What reaches a terminal: nothing that comes from a file or a name may act on it."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from rich.table import Table

from harness.say import complain, say
from harness.screen import Screen
from harness.text import is_unicode, one_line, printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\udcff"
SHOWN = r"\u001b]0;owned\u0007\u001b[2J\u000d\u009b31m\u202egnp.exe\u2028\udcff"
WRITTEN = "日本語　Ελλάδα\tاردو naïve — 👩\N{ZERO WIDTH JOINER}🔬\nsecond line"


def test_what_would_act_on_the_terminal_is_shown() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable(WRITTEN) == WRITTEN
    assert one_line("a\n\tb\x1b") == r"a\n\tb\u001b"
    assert is_unicode(WRITTEN)
    assert not is_unicode(HOSTILE)


def test_every_control_character_is_escaped_but_newline_and_tab() -> None:
    odd = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")]
    assert [one for one in odd if printable(one) == one] == ["\t", "\n"]


def test_all_output_goes_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say(HOSTILE, bold=True)
    complain(HOSTILE)
    screen = Screen(file=io.StringIO(), width=200)
    table = Table("[bold]column")
    table.add_row(HOSTILE)
    screen.print(table)
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n" * 2
    assert err == f"harness: error: {SHOWN}\n"
    assert SHOWN in screen.file.getvalue()  # type: ignore[attr-defined]


def test_json_stays_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a\x7f": ["\u202e", "\x85", WRITTEN]}
    say(json.dumps(value, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == value


def test_an_error_that_quotes_what_is_endless_shows_both_ends(capsys: pytest.CaptureFixture[str]) -> None:
    complain("first line\n" + "a" * 100_000 + " is no number")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "harness: error: first line"
    assert second.startswith("aaaa")
    assert second.endswith("aaaa is no number")
    assert " … 96,013 characters … " in second
    assert len(second) < 4100


def test_what_is_escaped_is_shortened_too_and_so_are_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    complain("\0" * 4000)
    say("tokenize " + "a" * 100_000, err=True)
    say("a" * 100_000)
    out, err = capsys.readouterr()
    assert [len(line) < 4100 for line in err.splitlines()] == [True, True]
    assert out == "a" * 100_000 + "\n"


def test_a_name_in_an_error_cannot_look_like_a_further_error(capsys: pytest.CaptureFixture[str]) -> None:
    complain("no folder a\nharness: error: all is well\n  look again")
    assert capsys.readouterr().err == "harness: error: no folder a\\nharness: error: all is well\n  look again\n"
