"""Finds the input files that arguments name, and tells what lies there and is not read.

Every command that takes text finds it here: local files, folders and patterns, or addresses (`s3://bucket/zh/*.jsonl.gz`)
of a file system far away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.text.file_kinds import TEXT, Endings
from data_prep.text.found_files import EXAMPLES, FoundFiles
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.local_files import find_local
from data_prep.text.patterns import identity_of
from data_prep.text.remote_files import find_remote
from harness.errors import DataError, UsageError
from harness.say import say
from harness.text import is_unicode, listed, printable


def tell(line: str) -> None:
    """Write a line to the error output."""
    say(line, err=True)


def find_inputs(
    arguments: Sequence[str], tell: Callable[[str], None] = tell, endings: Endings = TEXT
) -> list[InputFile]:
    """Return the files named by the arguments (files, folders, patterns, addresses), sorted for each argument.

    Links are followed; a file that several links lead to is read once. What is left out of a folder or a pattern is
    told, with the reason: another ending, hidden.

    Raises:
        UsageError: An argument names nothing, a file of another kind, a file that another argument names too, or an
            address for which a package is missing.
        DataError: A folder cannot be read, the file system behind an address does not answer, or a file is one JSON
            value where lines of JSON are read.
    """
    files: list[InputFile] = []
    for argument in arguments:
        _check_argument(argument)
        found = find_remote(argument, endings) if "://" in argument else find_local(argument, endings)
        if found is None:
            raise UsageError(f"input {argument}: the name must end in one of {endings.shown}.")
        if not found.files:
            raise UsageError(_nothing(argument, found, endings))
        for line in found.told():
            tell(f"input {argument}: {line}")
        empty = [str(file) for file in found.files if file_bytes(file) == 0]
        if empty:
            tell(f"input {argument}: of 0 bytes, so without any text: {listed(empty, EXAMPLES)}")
        _check_names(found.files)
        files.extend(found.files)
    _check_distinct(files)
    return files


def _check_argument(argument: str) -> None:
    if not argument.strip():
        raise UsageError(
            f"input {argument!r} names nothing (an unset variable of the shell?). Give a file, a folder, a pattern or "
            "an address; the current folder is '.'."
        )


def _check_names(files: Sequence[InputFile]) -> None:
    """Refuse names that are not UTF-8: neither messages nor the channel's records could hold them."""
    for file in files:
        if not is_unicode(str(file)):
            raise DataError(
                f"input {printable(str(file))}: the name of the file, or of a folder on its way, is not UTF-8. "
                "Rename it, or name another path to it."
            )


def _nothing(argument: str, found: FoundFiles, endings: Endings) -> str:
    there = "".join(f" Of what is there, {line}." for line in found.told())
    return (
        f"no input at {argument}: no such file, or no {endings.shown} file in the folder or under the pattern.{there} "
        "Check the path."
    )


def _check_distinct(files: Sequence[InputFile]) -> None:
    seen: dict[object, InputFile] = {}
    for file in files:
        identity = identity_of(file) if isinstance(file, Path) else file
        other = seen.setdefault(identity, file)
        if other is not file:
            also = "" if str(other) == str(file) else f" It is also {other}."
            raise UsageError(
                f"input {file} is named twice: its documents would be doubled.{also} Name every file once."
            )
