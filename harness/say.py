"""The one way in which commands write to a terminal: whatever comes from files and names is shown, never obeyed.

A name or a text in a file may hold escape sequences, which move the cursor, change the title of a window, or hide what
was written before. All that is printed goes through `printable`; colours are ours, and are added afterwards.
"""

from __future__ import annotations

import click

from harness.text import printable

_ERROR = "harness: error: "
_LONGEST_LINE = 4000
"""Characters of a line for people: a path has at most 4,096 bytes, and what was given may have megabytes."""


def say(text: object = "", *, err: bool = False, bold: bool = False, nl: bool = True) -> None:
    """Write a text to standard output, or to standard error (`err`), with everything escaped that is not printable.

    JSON stays the same JSON: the escapes are JSON's. On standard error are words for people: of a line that quotes what
    is endless, the beginning and the end are written.
    """
    shown = printable(str(text))
    if err:
        shown = "\n".join(map(_shortened, shown.split("\n")))
    click.echo(click.style(shown, bold=True) if bold else shown, err=err, nl=nl)  # noqa: TID251 (the one place)


def complain(text: object) -> None:
    """Write an error to standard error, as every command and every process of a launch does.

    A name with a line end in it cannot look like a further error.
    """
    one_error = str(text).replace(f"\n{_ERROR}", f"\\n{_ERROR}")
    say(f"{_ERROR}{one_error}", err=True)


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} … {len(line) - 2 * half:,} characters … {line[-half:]}"
