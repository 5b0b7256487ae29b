"""The one way in which commands write to a terminal: whatever comes from files and names is shown, never obeyed.

A name or a text in a file may hold escape sequences, which move the cursor, change the title of a window, or hide what
was written before. All that is printed goes through `printable`; colours are ours, and are added afterwards.
"""

from __future__ import annotations

import click

from harness.text import printable

_MOST_LINE = 6000
"""Characters. A path has at most 4,096 bytes."""


def say(text: object = "", *, err: bool = False, bold: bool = False, nl: bool = True) -> None:
    """Write a text to standard output, or to standard error (`err`), with everything escaped that is not printable.

    JSON stays the same JSON: the escapes are JSON's.
    """
    shown = printable(str(text))
    click.echo(click.style(shown, bold=True) if bold else shown, err=err, nl=nl)  # noqa: TID251 (the one place)


def complain(text: object) -> None:
    """Write an error to standard error, as every command and every process of a launch does.

    A line that quotes something longer than any path is cut, and says how long it was.
    """
    lines = f"harness: error: {text}".split("\n")
    say("\n".join(line if len(line) <= _MOST_LINE else _cut(line) for line in lines), err=True)


def _cut(line: str) -> str:
    return f"{line[:_MOST_LINE]}… ({len(line):,} characters)"
