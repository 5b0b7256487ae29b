"""Finds input files at an address of a file system far away, through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from data_prep.text.file_kinds import DROPPED, FILES_LIST, STATE_FOLDER, TEXT, Endings
from data_prep.text.found_files import HIDDEN, WHOLE_JSON, FoundFiles, other_ending
from data_prep.text.input_file import RemoteFile, file_system
from data_prep.text.whole_json import refuse_whole_json, whole_json_of
from harness.channels.provenance import ENDING
from harness.errors import DataError, HarnessError
from harness.sole_writer import LOCK_FILE


def find_remote(address: str, endings: Endings = TEXT) -> FoundFiles | None:
    """Return what an address of a file, a folder or a pattern names, sorted; None for a file that is not read.

    Raises:
        DataError: The file system does not answer, or a file is one JSON value where lines of JSON are read.
        UsageError: A package is missing for such an address.
    """
    system, path = file_system(address)
    try:
        return _find(system, path, endings)
    except HarnessError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise DataError(
            f"input {address}: the file system does not answer ({type(error).__name__}: {error}). "
            "Check the address, the credentials and the network."
        ) from error


def _find(system: Any, path: str, endings: Endings) -> FoundFiles | None:  # noqa: ANN401 - fsspec has no types
    found = FoundFiles()
    if system.isfile(path):
        kind, file = endings.kind_of(path), RemoteFile(system.unstrip_protocol(path))
        if kind is None:
            return None
        if kind.is_json:
            refuse_whole_json(file)
        found.files.append(file)
        return found
    tops = [path] if system.isdir(path) else system.glob(path)
    names = {name: shown for top in tops for name, shown in _below(system, top, top if top != path else "")}
    records = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == FILES_LIST}
    for name, shown in sorted(names.items()):
        if not _is_own(name, records):
            _take(found, RemoteFile(system.unstrip_protocol(name)), shown, endings)
    return found


def _below(system: Any, top: str, shown: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Yield a file, or the files in a folder and below it, each with its name for people."""
    if system.isfile(top):
        yield top, shown
        return
    for name in system.find(top):
        below = str(PurePosixPath(name).relative_to(top))
        yield name, f"{shown}/{below}" if shown else below


def _is_own(name: str, folders: set[str]) -> bool:
    """Return whether our commands made the file, to keep account of text beside it."""
    parts = PurePosixPath(name).parts
    beside = str(PurePosixPath(name).parent) in folders
    if beside and (parts[-1] in (FILES_LIST, LOCK_FILE) or parts[-1].endswith((DROPPED, ENDING))):
        return True
    return STATE_FOLDER in parts and str(PurePosixPath(*parts[: parts.index(STATE_FOLDER)])) in folders


def _take(found: FoundFiles, file: RemoteFile, shown: str, endings: Endings) -> None:
    kind = endings.kind_of(file.name)
    if any(part.startswith(".") for part in PurePosixPath(shown).parts):
        found.leave_out(HIDDEN, shown)
    elif kind is None:
        found.leave_out(other_ending(endings), shown)
    elif kind.is_plain_json and whole_json_of(file) == "object":
        found.leave_out(WHOLE_JSON, shown)
    else:
        if kind.is_plain_json:  # the others, perhaps thousands, when their turn comes
            refuse_whole_json(file)
        found.files.append(file)
