"""The folder of a conversion: written beside its place, gone on with after an interruption, renamed when it is proven.

```
OUT.partial/conversion.json   what is being converted; other content means another conversion, which starts anew
            proof/                first layers of a model that is too large to be compared whole
            .lock             held by the process that writes here (`harness.sole_writer`)
            …                 what is finished is marked so by whoever writes it
OUT/                          all of it, once the proof is done
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError, UsageError
from harness.json_text import parse_json
from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.run.files import STAGING_SUFFIX, remove_tree, replace_file
from harness.sole_writer import LOCK_FILE, SoleWriter, partial_folder, refuse_links

RECORD_NAME = "conversion.json"
PROOF_NAME = "proof"
"""Scratch folder of the proof; gone when it is done."""
_OWN_NAMES = {RECORD_NAME, RECORD_NAME + STAGING_SUFFIX, LOCK_FILE}
_OF_AN_INPUT = (MANIFEST_NAME, "config.json")
"""Files of which a checkpoint or a model's folder has one."""
_MAX_SHOWN = 200


def require_free(out: Path, inputs: Iterable[Path] = ()) -> Path:
    """Check that OUT can become a folder apart from what is read, before anything is written.

    Returns:
        The partial folder beside it.

    Raises:
        UsageError: OUT names no folder, is there already, cannot be there, or it or its partial folder lies in an
            input, also through links; or an input lies in the partial folder, which may be emptied.
    """
    if out.name in ("", ".."):
        raise UsageError(f"{out} ends without the name of a new folder. Name one, such as {out / 'converted'}.")
    partial = out.with_name(out.name + STAGING_SUFFIX)
    if _is_there(out):
        raise UsageError(f"{out} exists. Name another folder, or remove it: nothing is ever overwritten.")
    _is_there(partial)
    for path in inputs:
        if not any((path / name).is_file() for name in _OF_AN_INPUT):
            continue  # whoever reads it says what is wrong with it
        source, places = path.resolve(), (out.resolve(), partial.resolve())
        if any(place.is_relative_to(source) for place in places) or source.is_relative_to(places[1]):
            raise UsageError(
                f"{out}, or {partial.name} in which it is written, lies in {path}, which is read: it would be changed. "
                "Name a folder outside of it."
            )
    return partial


def _is_there(path: Path) -> bool:
    """Return whether a path has an entry, also if it is a link that leads nowhere.

    Raises:
        UsageError: There can be none, or the disk does not say.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        text = str(path)
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        raise UsageError(f"{shown} cannot be written: {error.strerror}. Name another folder.") from error
    return True


@contextmanager
def begun(out: Path, record: Mapping[str, object]) -> Iterator[SoleWriter]:
    """Lock the partial folder to write into: that of an interrupted conversion with the same record, or an empty one.

    No other process writes there meanwhile. After an error it stays, and the next call continues in it.

    Raises:
        UsageError: OUT is not free (`require_free`), another process converts to it, or what is at OUT.partial is no
            conversion.
        CheckpointError: The disk refused, here or while the folder was written.
        DataError: The folder has links in it, or was deleted, moved or replaced meanwhile.
    """
    partial = require_free(out)
    try:
        with partial_folder(out) as held:
            is_resumed = _prepare(partial, record)
            with _kept_files_suspected(partial) if is_resumed else nullcontext():
                yield held
    except OSError as error:
        if error.errno is None:  # no disk says that: some library raised it
            raise
        raise CheckpointError(
            f"{error.filename or partial} cannot be written: {error.strerror}. What is finished stays in {partial}; "
            "the same command goes on from there."
        ) from error


def publish(held: SoleWriter, out: Path, record: Mapping[str, object]) -> None:
    """Rename the partial folder. `record`, which may have more fields now, replaces the one of the beginning.

    Raises:
        CheckpointError: The disk refused; the partial folder is still there.
        DataError: The folder was deleted, moved or replaced.
        UsageError: OUT is there by now.
    """
    try:
        held.require()
        replace_file(held.folder / RECORD_NAME, _text(record))
        held.publish(out)
    except OSError as error:
        raise CheckpointError(f"{out} could not be published: {error.strerror}.") from error


@contextmanager
def _kept_files_suspected(partial: Path) -> Iterator[None]:
    """Say of every failure that it may come from what was there before: it would come back each time."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(
            f"{error}\nThis conversion went on from {partial}, in which a file may be damaged: remove that folder "
            "and call the same command again."
        ) from error


def _prepare(partial: Path, record: Mapping[str, object]) -> bool:
    """Leave the folder as it is if it belongs to the same conversion, else empty it.

    Returns:
        True if it holds something from before.
    """
    refuse_links(partial)
    path = partial / RECORD_NAME
    strangers = sorted(entry.name for entry in partial.iterdir() if entry.name not in _OWN_NAMES)
    if not path.exists() and strangers:
        raise UsageError(
            f"{partial} is not left over from a conversion: it holds {strangers[0]!r} and no {RECORD_NAME}. Move it "
            "away, or name another folder."
        )
    if _noted(path) == parse_json(_text(record)):
        return bool(strangers)
    replace_file(path, _text({}))  # whoever is interrupted here starts anew
    for name in strangers:
        remove_tree(partial / name, first=MANIFEST_NAME)
    replace_file(path, _text(record))
    return False


def _noted(path: Path) -> dict[str, Any] | None:
    """Return the record of the beginning, without the proof that came later, just before an interruption."""
    try:
        found = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return {key: value for key, value in found.items() if key != "proof"} if isinstance(found, dict) else None


def _text(record: Mapping[str, object]) -> bytes:
    # A name that is no UTF-8 has lone surrogates; in JSON they are spelled as this spells them.
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
