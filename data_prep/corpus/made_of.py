"""Records what a step's folder is made of, and says what is different now: `plan.json` in its hidden folder.

It holds the input files (path, size, time of the last change, hash), all settings, and the number of the rules. Of
files that a step wrote the hash is that of all bytes, as its report has it; of others that of the beginning and end. So
a step that is done again and writes what it wrote before changes nothing for the next one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.corpus.config import CleanConfig, DedupConfig, OrderConfig
from data_prep.corpus.extract_config import ExtractConfig
from data_prep.text.file_hashes import known_hash, last_change
from data_prep.text.file_kinds import FILES_LIST, STATE_FOLDER
from data_prep.text.input_file import InputFile, file_bytes
from data_prep.text.own_json import fields_of, read_own
from data_prep.text.text_files import finished_files, unreadable
from harness.json_text import parse_json

PLAN_FILE = "plan.json"
RULES = 1
"""Raised when a step keeps, drops or writes something else of the same input under the same settings."""
INPUT, MARKS, TASKS = "input", "marks", "tasks"
_DEFAULTS: Mapping[str, dict[str, Any]] = {
    "extract": ExtractConfig().model_dump(mode="json"),
    "clean": CleanConfig().model_dump(mode="json"),
    "dedup": DedupConfig().model_dump(mode="json"),
    "order": OrderConfig().model_dump(mode="json"),
}
"""Settings that a record of an earlier version does not have are as they are by default."""


class Mark(NamedTuple):
    """An input file, whatever folder it is in."""

    name: str
    size: int
    xxh3: str | None
    """None in what earlier versions recorded."""


@dataclass(frozen=True)
class Difference:
    """Something that a folder was made of, and that is something else now."""

    key: str
    there: Any
    now: Any
    words: tuple[str, ...]
    """The same for people."""


def recorded_plan(folder: Path) -> dict[str, Any] | None:
    """Return what a folder was made of; None if it says nothing about that.

    Raises:
        DataError: The record is unreadable.
    """
    file = folder / STATE_FOLDER / PLAN_FILE
    try:
        return fields_of(read_own(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error


def plan_of(
    files: Sequence[InputFile], settings: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the record of files and settings. Of files that look as they were recorded the hash is taken from there.

    Raises:
        DataError: A file cannot be read.
    """
    known = {entry[0]: entry for entry in _marks_in(recorded or {})}
    plan = {
        INPUT: [[str(file), file_bytes(file)] for file in files],
        MARKS: [_mark_of(file, known.get(str(file))) for file in files],
        **settings,
        "rules": RULES,
    }
    found: dict[str, Any] = parse_json(as_text(plan))
    return found


def as_text(plan: Mapping[str, Any]) -> str:
    """Return a record as its file holds it."""
    return json.dumps(plan, ensure_ascii=False, indent=1, default=str)


def _mark_of(file: InputFile, recorded: Sequence[Any] | None) -> list[Any]:
    """Return path, size, time of the last change and hash of a file."""
    size, changed = file_bytes(file), last_change(file)
    if isinstance(file, Path) and (whole := _hashes_in(file.parent).get(file.name)):
        return [str(file), size, None, whole]
    if recorded and changed is not None and list(recorded[1:3]) == [size, changed]:
        return list(recorded)
    return [str(file), size, changed, known_hash(file)]


def _hashes_in(folder: Path) -> Mapping[str, str]:
    """Return the hashes of the files that a step wrote into a folder; none if no step did."""
    listed = folder / FILES_LIST
    return _hashes_at(folder, listed.stat().st_mtime_ns) if listed.is_file() and _is_ours(folder) else {}


def _is_ours(folder: Path) -> bool:
    return (folder / STATE_FOLDER / PLAN_FILE).is_file()


@lru_cache(maxsize=64)
def _hashes_at(folder: Path, _: int) -> Mapping[str, str]:
    return {name: each for report in finished_files(folder).values() for name, each in report.hashes.items()}


def _marks_in(plan: Mapping[str, Any]) -> Iterator[list[Any]]:
    marks = plan.get(MARKS)
    for entry in marks if isinstance(marks, list) else ():
        match entry:
            case [str(), int(), int() | None, str()]:
                yield entry


def marks_of(plan: Mapping[str, Any]) -> list[Mark]:
    """Return the input files of a record, in order."""
    if MARKS in plan:
        return [Mark(Path(path).name, size, xxh3) for path, size, _, xxh3 in _marks_in(plan)]
    return [Mark(Path(path).name, size, None) for path, size in _inputs_in(plan)]


def _inputs_in(plan: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    listed = plan.get(INPUT)
    for entry in listed if isinstance(listed, list) else ():
        match entry:
            case [str(path), int(size)]:
                yield path, size


def differences(recorded: Mapping[str, Any], plan: Mapping[str, Any], *, is_finished: bool) -> list[Difference]:
    """Return what is different now from what a folder was made of.

    The number of tasks makes no difference to a finished folder.
    """
    found = []
    if not _same_files(recorded, plan):
        words = tuple(_file_words(*_comparable(recorded, plan)))
        found.append(Difference(INPUT, recorded.get(INPUT), plan[INPUT], words))
    for key, now in plan.items():
        if key in (INPUT, MARKS) or (key == TASKS and is_finished):
            continue
        there = recorded.get(key, RULES if key == "rules" else None)
        if key in _DEFAULTS and isinstance(there, dict):
            there = _DEFAULTS[key] | there
        words = tuple(_words(key, there, now))
        if words:
            found.append(Difference(key, there, now, words))
    return found


def is_only_longer(recorded: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Return whether files have come in addition, and all that were there are as they were."""
    there, now = _comparable(recorded, plan)
    return not Counter(there) - Counter(now)


def _comparable(recorded: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[list[Mark], list[Mark]]:
    """Return the input files of both, without their hashes where earlier versions recorded none."""
    now = marks_of(plan)
    return marks_of(recorded), now if MARKS in recorded else [mark._replace(xxh3=None) for mark in now]


def _same_files(recorded: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    if MARKS in recorded:
        return marks_of(recorded) == marks_of(plan)
    return bool(recorded.get(INPUT) == plan[INPUT])


def _file_words(there: Sequence[Mark], now: Sequence[Mark]) -> Iterator[str]:
    new, gone = Counter(now) - Counter(there), Counter(there) - Counter(now)
    changed = {mark.name for mark in new} & {mark.name for mark in gone}
    counts = {
        "changed": sorted(changed),
        "new": sorted(mark.name for mark in new if mark.name not in changed),
        "gone": sorted(mark.name for mark in gone if mark.name not in changed),
    }
    for what, names in counts.items():
        if names:
            number = "1 input file is" if len(names) == 1 else f"{len(names):,} input files are"
            yield f"{number} {what} ({names[0]}{' …' if len(names) > 1 else ''})"
    if not any(counts.values()):
        yield "the input files are in another order"


def _words(key: str, there: Any, now: Any) -> Iterator[str]:  # noqa: ANN401 (any JSON value)
    if isinstance(there, dict) and isinstance(now, dict):
        for name in now:
            yield from _words(f"{key}.{name}", there.get(name), now[name])
    elif there != now:
        yield f"{key}: {shown(now)} now, {shown(there)} there"


def shown(value: object) -> str:
    """Return a JSON value on a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + " …"
