"""Lists of words that documents should not have, and how often a text has them.

A text is cut as for the search of copies: into words of scripts with spaces, and into the letters of scripts without.
An entry of a list is cut in the same way, so it is found between the borders of words where there are any, and as a
piece of text where there are none. Signs and spaces between words make no difference, nor do capital letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from data_prep.text.scripts import units_of
from harness.errors import DataError, UsageError

MOST_BYTES = 64 << 20
"""Of a list. The longest published ones have some thousand words."""


class BannedWords:
    """The words of one list."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for entry in dict.fromkeys(tuple(_units(entry)) for entry in entries):
            self._by_first.setdefault(entry[0], []).append(entry)
        for entries_of_one in self._by_first.values():
            entries_of_one.sort(key=len, reverse=True)

    def count(self, text: str) -> int:
        """Return how often a text has an entry; of those that overlap the first, and the longest, counts."""
        units = _units(text)
        if self._by_first.keys().isdisjoint(units):
            return 0
        place = found = 0
        while place < len(units):
            length = self._length_at(units, place)
            found += length > 0
            place += length or 1
        return found

    def _length_at(self, units: list[str], place: int) -> int:
        for entry in self._by_first.get(units[place], ()):
            if tuple(units[place : place + len(entry)]) == entry:
                return len(entry)
        return 0


def read_banned_words(file: Path) -> BannedWords:
    """Read a list: UTF-8, an entry a line; blank lines mean nothing.

    Raises:
        UsageError: There is no such file, or no entry in it.
        DataError: It is no such list.
    """
    if not file.is_file():
        raise UsageError(f"banned_words {file}: there is no such file. Give a list with a word on each line.")
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"banned_words {file}: has more than {MOST_BYTES >> 20} MiB, which no list of words has.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"banned_words {file}: is not UTF-8 (byte {error.start}). Convert it.") from error
    wordless = next((number for number, line in enumerate(lines, 1) if line.strip() and not _units(line)), None)
    if wordless is not None:
        raise DataError(f"banned_words {file}: line {wordless} has neither letters nor digits. Remove it.")
    entries = [line for line in lines if line.strip()]
    if not entries:
        raise UsageError(f"banned_words {file}: has no words. Leave it out, or give a list.")
    return BannedWords(entries)


def _units(text: str) -> list[str]:
    return units_of(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()))
