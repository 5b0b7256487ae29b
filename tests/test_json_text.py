"""Reading JSON of strangers: what is refused, in one line, and what is read as Python reads it."""

from __future__ import annotations

import json

import pytest

from harness.json_text import MOST_DEPTH, MOST_DIGITS, JsonError, parse_json

VALUE = {"a": [1, 2.5, None, True, {"b": "é\n日本"}], "c": 10**30, "d": -0.0}


def test_it_reads_what_python_reads() -> None:
    text = json.dumps(VALUE, ensure_ascii=False)
    assert parse_json(text) == parse_json(text.encode()) == parse_json(text.encode("utf-8-sig")) == VALUE
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        ('{"a": 1e999}', "1e999 is larger than any float"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("9" * (MOST_DIGITS + 1), "a number of 301 digits"),
        ("9" * 10**6, "a number of 1000000 digits"),
        ('"\\ud800"', r"\ud800 holds half of a surrogate pair"),
        ('{"\\udfff": 1}', r"\udfff holds half of a surrogate pair"),
        ('{"a": \n tru}', "Expecting value, line 2, column 2"),
        ("", "Expecting value"),
        (b"[\x00]", "Expecting value"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), f"nested deeper than {MOST_DEPTH} levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, f"nested deeper than {MOST_DEPTH} levels"),
        ("[" * 10**6, f"nested deeper than {MOST_DEPTH} levels"),
    ],
)
def test_it_refuses_what_no_later_code_expects(content: str | bytes, words: str) -> None:
    with pytest.raises(JsonError) as at:
        parse_json(content)
    assert words in str(at.value)
    assert "\n" not in str(at.value)


def test_a_key_may_be_required_to_be_there_once() -> None:
    with pytest.raises(JsonError, match=r"b\\u001b is there twice"):
        parse_json('{"a": 1, "b\\u001b": {}, "b\\u001b": 2}', unique_keys=True)


def test_as_many_levels_as_allowed_are_read() -> None:
    assert parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH) is not None
