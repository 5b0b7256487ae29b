"""Sets the folder of a result aside when it is to be made anew, until the new one is whole.

    .set-aside/NAME            beside the folder: what was there before
    .set-aside/NAME.removed    on its way out

A folder gets its new place whole, by its name. Nothing that other programs put there is moved or removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from data_prep.text.file_kinds import STATE_FOLDER
from data_prep.text.write_errors import explaining_write_errors
from harness.errors import UsageError
from harness.sole_writer import LOCK_FILE, refuse_links, sole_writer

SET_ASIDE = ".set-aside"
_REMOVED = ".removed"


def aside_of(folder: Path) -> Path:
    """Return the place of what was in a folder before."""
    return folder.parent / SET_ASIDE / folder.name


def set_aside(folder: Path, is_own: Callable[[str], bool], *, keep: bool) -> None:
    """Take a folder away: to its place aside (`keep`), in place of what is there, or for good.

    Raises:
        UsageError: It is a link, holds a file that is not `is_own`, or another process writes it.
        DataError: It has links in it, or the disk refused.
    """
    aside = aside_of(folder)
    for link in (folder, aside.parent):
        if link.is_symlink():
            raise UsageError(f"{link} is a link, so it is not made anew. Name its target as the output, or remove it.")
    with explaining_write_errors(folder, "Finished files"), sole_writer(folder) as held:
        refuse_links(folder)
        _require_own(folder, is_own)
        if keep:
            discard_aside(folder)
        aside.parent.mkdir(exist_ok=True)
        if keep:
            held.publish(aside)
            return
        _clear(aside)
        held.publish(_removed(aside))
    _clear(aside)
    _tidy(folder)


def put_back(folder: Path, is_own: Callable[[str], bool]) -> None:
    """Give a folder what was set aside, in place of what is there.

    Raises:
        UsageError, DataError: As `set_aside` does.
    """
    if folder.exists():
        set_aside(folder, is_own, keep=False)
    with explaining_write_errors(folder, "Finished files"):
        aside_of(folder).rename(folder)
        _tidy(folder)


def discard_aside(folder: Path) -> None:
    """Remove what was set aside, if there is anything.

    Raises:
        UsageError: Another process writes it.
        DataError: The disk refused.
    """
    aside = aside_of(folder)
    if aside.parent.is_symlink() or not aside.parent.is_dir():
        return
    with explaining_write_errors(folder, "Finished files"):
        _clear(aside)
        if aside.is_dir() and not aside.is_symlink():
            with sole_writer(aside) as held:
                held.publish(_removed(aside))
            _clear(aside)
        _tidy(folder)


def _require_own(folder: Path, is_own: Callable[[str], bool]) -> None:
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name not in (LOCK_FILE, STATE_FOLDER) and not is_own(path.name)
    )
    if foreign:
        raise UsageError(
            f"{folder / foreign[0]} was not made by these commands, so {folder} is not made anew: it stays as it is. "
            "Move that elsewhere first."
        )


def _removed(aside: Path) -> Path:
    return aside.with_name(aside.name + _REMOVED)


def _clear(aside: Path) -> None:
    """Remove what is on its way out, of an interrupted call too."""
    with suppress(FileNotFoundError):
        shutil.rmtree(_removed(aside))


def _tidy(folder: Path) -> None:
    with suppress(OSError):  # of other folders something may be there
        aside_of(folder).parent.rmdir()
