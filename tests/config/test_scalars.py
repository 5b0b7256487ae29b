"""What unquoted words mean, and which are refused."""

import pytest

from harness.config.scalars import Unreadable, read_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e5", 1e5),
        ("1E+5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.25", -0.25),
        ("0", 0),
        ("+7", 7),
        ("-12", -12),
        ("9223372036854775807", 2**63 - 1),
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
    ],
)
def test_values(text: str, value: object) -> None:
    read = read_plain(text)
    assert read == value and type(read) is type(value)


TEXT = "on off yes no Yes y 24:00:00 1:30 2024-01-01 1.2.3 1e e5 0b2 0xg _1 1-2 inf nan . - 1,000 7B"


@pytest.mark.parametrize("text", TEXT.split())
def test_text_stays_text(text: str) -> None:
    assert read_plain(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("012", "012 starts with a zero, which is octal to some readers; write 12, or put text in quotes"),
        ("-007.5", "-007.5 starts with a zero, which is octal to some readers; write -7.5, or put text in quotes"),
        ("0o14", "0o14 is not a decimal number; write 12, or put text in quotes"),
        ("0x1F", "0x1F is not a decimal number; write 31, or put text in quotes"),
        ("-0b11", "-0b11 is not a decimal number; write -3, or put text in quotes"),
        ("1_000", "1_000 has underscores; write 1000, or put text in quotes"),
        ("1_0.5e3", "1_0.5e3 has underscores; write 10.5e3, or put text in quotes"),
        (".nan", ".nan is not a finite number; every number here must be one"),
        ("-.INF", "-.INF is not a finite number; every number here must be one"),
        ("1e999", "1e999 does not fit into a 64-bit float"),
        ("9223372036854775808", "9223372036854775808 does not fit into a 64-bit integer"),
        ("1" * 5000, "a number of 5000 characters is too long"),
    ],
)
def test_refused_spellings_say_what_to_write(text: str, reason: str) -> None:
    assert read_plain(text) == Unreadable(reason)
