"""Finds input files of this machine: a file, a folder with all folders below it (linked ones too), or a pattern."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.text.file_kinds import DROPPED, FILES_LIST, STATE_FOLDER, TEXT, Endings
from data_prep.text.found_files import DEAD_LINK, HIDDEN, SEEN, WHOLE_JSON, FoundFiles, other_ending
from data_prep.text.packed_file import check_beginning
from data_prep.text.patterns import Identity, entries, identity_of, matches
from data_prep.text.whole_json import refuse_whole_json, whole_json_of
from harness.channels.provenance import ENDING
from harness.sole_writer import LOCK_FILE

OWN_LIST_BYTES = 1 << 16


def find_local(argument: str, endings: Endings = TEXT) -> FoundFiles | None:
    """Return what a path or a pattern names, sorted; None for a file whose name says that it is not read.

    Raises:
        DataError: A folder cannot be read, or a file is one JSON value where lines of JSON are read.
    """
    path, found = Path(argument), FoundFiles()
    if path.is_file():
        kind = endings.kind_of(path.name)
        if kind is None:
            return None
        if not kind.is_one_page:
            check_beginning(path)
        if kind.is_json:
            refuse_whole_json(path)
        found.files.append(path)
        return found
    tops = [path] if path.is_dir() else matches(argument)
    finder = _Finder(found, endings)
    for top in sorted(tops):
        finder.look_at(top, str(top.relative_to(path)) if path.is_dir() else str(top))
    finder.follow_links()
    found.files.sort()
    return found


class _Finder:
    """Walks through folders, real ones before linked ones, and meets every folder and file once."""

    def __init__(self, found: FoundFiles, endings: Endings) -> None:
        self._found = found
        self._endings = endings
        self._linked: list[tuple[Path, str]] = []
        self._folders: set[Identity] = set()
        self._files: set[Identity] = set()

    def look_at(self, path: Path, shown: str) -> None:
        """Take a file, or all that is in a folder and the real folders below it. `shown` is its name for people."""
        pending = [(path, shown)]
        while pending:
            entry, name = pending.pop()
            if not entry.is_dir():
                self._take(entry, name)
            elif self._is_new(entry, self._folders, name):
                pending += reversed(list(self._inside(entry, name)))

    def follow_links(self) -> None:
        """Look at the linked folders that were met, and at those met on the way."""
        while self._linked:
            self.look_at(*self._linked.pop(0))

    def _inside(self, folder: Path, shown: str) -> Iterator[tuple[Path, str]]:
        inside = entries(folder)
        has_records = any(entry.name == FILES_LIST and _is_own_list(entry) for entry in inside)
        for entry in inside:
            name = entry.name if shown == "." else f"{shown}/{entry.name}"
            if has_records and entry.name in (FILES_LIST, LOCK_FILE, STATE_FOLDER):
                continue
            if has_records and entry.name.endswith((DROPPED, ENDING)):
                continue
            if entry.name.startswith("."):
                # Hidden folders hold what a program is still working with.
                self._found.leave_out(HIDDEN, name)
            elif entry.is_symlink() and entry.is_dir():
                self._linked.append((entry, name))
            else:
                yield entry, name

    def _take(self, file: Path, shown: str) -> None:
        kind = self._endings.kind_of(file.name)
        if kind is None:
            self._found.leave_out(other_ending(self._endings), shown)
        elif not file.is_file():
            self._found.leave_out(DEAD_LINK, shown)
        elif self._is_new(file, self._files, shown):
            if not kind.is_one_page:
                check_beginning(file)
            # Beside text such a file holds settings; an array may be text, and is refused.
            if kind.is_plain_json and whole_json_of(file) == "object":
                self._found.leave_out(WHOLE_JSON, shown)
                return
            if kind.is_json:
                refuse_whole_json(file)
            self._found.files.append(file)

    def _is_new(self, path: Path, seen: set[Identity], shown: str) -> bool:
        identity = identity_of(path)
        if identity in seen:
            self._found.leave_out(SEEN, shown)
            return False
        seen.add(identity)
        return True


def _is_own_list(file: Path) -> bool:
    """Return whether a file is our list of what became of each file, and not somebody's text of that name."""
    with file.open("rb") as stream:
        beginning = stream.read(OWN_LIST_BYTES)
    return beginning.lstrip().startswith(b"[") and b'"kept_characters"' in beginning
