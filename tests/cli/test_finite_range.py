"""No option takes a number that switches a comparison off."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from harness import cli
from harness.errors import EXIT_USAGE
from harness.finite_range import FiniteRange


def commands_of(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands_of(command, *names, name)
        else:
            yield (*names, name), command


NUMBERS = [
    (names, option.opts[-1])
    for names, command in commands_of(cli.root)
    for option in command.params
    if isinstance(option.type, click.FloatRange | click.types.FloatParamType)
]


def test_there_are_such_options() -> None:
    assert (("data", "tokenize"), "--max-lost-share") in NUMBERS
    assert (("data", "append"), "--max-rejected-share") in NUMBERS
    assert (("data", "verify"), "--max-lost-share") in NUMBERS
    assert len(NUMBERS) >= 11


@pytest.mark.parametrize("number", ["nan", "-NaN", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("names", "option"), NUMBERS)
def test_no_option_takes_a_number_that_is_not_finite(
    names: tuple[str, ...], option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*names, f"{option}={number}"]) == EXIT_USAGE
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"harness: error: Invalid value for '{option}'")


COUNTS = [
    (names, option)
    for names, command in commands_of(cli.root)
    for option in command.params
    if isinstance(option.type, click.IntRange | click.types.IntParamType)
]


def test_every_number_has_a_largest_and_a_smallest_one() -> None:
    numbers = [(names, option) for names, command in commands_of(cli.root) for option in command.params]
    unbounded = [
        (*names, option.opts[-1])
        for names, option in numbers
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
        and (
            not isinstance(option.type, click.IntRange | click.FloatRange) or None in (option.type.min, option.type.max)
        )
    ]
    assert unbounded == []
    assert len(COUNTS) >= 30


@pytest.mark.parametrize("number", ["1" + "0" * 30, "-" + "9" * 5000, "nan", "1e308", "4611686018427387905"])
def test_no_option_takes_a_count_that_nobody_means(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for names, option in COUNTS:
        assert cli.run([*names, f"{option.opts[-1]}={number}"]) == EXIT_USAGE
        (message,) = capsys.readouterr().err.splitlines()
        assert message.startswith(f"harness: error: Invalid value for '{option.opts[-1]}'"), (names, message)


def test_numbers_without_a_range_and_within_one_are_taken() -> None:
    assert FiniteRange().convert("-2.5", None, None) == -2.5
    assert FiniteRange(0, 1).convert("1", None, None) == 1
    with pytest.raises(click.BadParameter, match=r"'nan' is not a finite number\."):
        FiniteRange().convert("nan", None, None)
