"""One damage to one file, as a line of JSON that can be kept, thrown out of a finding, and applied again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from absurd import draw_value, encoded
from formats import FORMATS, UNPACKABLE, Change
from seals import SEALS
from trees import LOST_PLACE

_MOST_COPIED = 1 << 26
_MOST_OPTION = 100_000
"""Characters of an option; Linux takes 131,071 bytes."""


@dataclass(frozen=True)
class Edit:
    """A damage to a file of a place, by the file's path in it."""

    file: str
    how: str
    """A format of `formats.FORMATS`; or `place`: the file becomes something else (`PLACES`); or `seal`: hashes of a
    folder are made right again, after everything else; or `drop`: a file of the place is put there, damaged; or
    `option`: no file, but the value of an option."""
    change: Change

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Edit:
        return cls(fields["file"], fields["how"], fields["change"])

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)


def draw_edit(choose: random.Random, file: str, how: str, content: bytes, *, place_share: float = 0.06) -> Edit:
    """A damage to a file of a format, drawn."""
    if choose.random() < place_share:
        return Edit(file, "place", {"becomes": choose.choice(sorted(PLACES))})
    if how != "bytes" and choose.random() < 0.15:
        return Edit(file, "bytes", FORMATS["bytes"].draw(choose, content))
    return Edit(file, how, FORMATS[how].draw(choose, content))


def draw_option(choose: random.Random, is_setting: bool, keys: Sequence[str]) -> Edit:
    """A value of an option, or of `--set` a key with a value: no NUL and no more than a command line takes."""
    raw = draw_value(choose, choose.choice([None, 1, 0.5, "a"]), is_yaml=is_setting)
    raw = [[text.replace("\0", ""), min(times, _MOST_OPTION // max(1, len(text)))] for text, times in raw]
    if is_setting:
        raw.insert(0, [choose.choice(keys) + "=", 1])
    elif choose.random() < 0.5:
        raw = [[_unquoted(text), times] for text, times in raw]
    return Edit("", "option", {"raw": raw})


def _unquoted(text: str) -> str:
    """What a text in JSON's spelling stands for; half a pair of surrogates as the bytes that it would be."""
    with suppress(ValueError):
        text = str(json.loads(text)) if text.startswith('"') else text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape").replace("\0", "")


def option_of(edits: Sequence[Edit]) -> str:
    """The value of the option, as Python has it of a command line."""
    return next((os.fsdecode(encoded(edit.change["raw"])) for edit in edits if edit.how == "option"), "")


def draw_drop(choose: random.Random, folder: str, source: str, how: str, content: bytes) -> Edit:
    """A damaged copy of a file, under its name or an odd one, in a folder where such files are read."""
    name = Path(source).name if choose.random() < 0.7 else choose.choice(ODD_NAMES)
    change: Change = {"source": source, "as": how, "changes": [], "becomes": None}
    if choose.random() < 0.15:
        change["becomes"] = choose.choice(sorted(PLACES))
    for _ in range(choose.choice([0, 1, 1, 1, 2])):
        kind = how if choose.random() < 0.7 else "text" if choose.random() < 0.5 else "bytes"
        change["changes"].append([kind, FORMATS[kind].draw(choose, content)])
    return Edit(f"{folder}/{name}", "drop", change)


def changed(content: bytes, how: str, changes: Sequence[Change]) -> bytes:
    """Content with changes of a format; as it was where another change has made it something else."""
    try:
        return FORMATS[how].apply(content, changes)
    except (*LOST_PLACE, *UNPACKABLE):
        return content


ODD_NAMES = (
    *("save", "stop", "save-and-stop", "Save", "save.json", "rollback", "evidence", "x", "x.json", ".hidden", ".save"),
    *(
        "\x1b[2J",
        "\x1b[2Jsave.json",
        "a\nb.json",
        "x" * 250,
        "x" * 250 + ".json",
        "save ",
        "sävé.json",
        "\u202esave.json",
    ),
    *(
        "done.json",
        "rejected.json",
        "save.json.partial",
        "save.tmp",
        "-rf",
        "*",
        "{}",
        "rollback-0000001.json",
        "\udcff",
    ),
)


def _apply_drop(folder: Path, edit: Edit) -> None:
    change, target = edit.change, os.fsencode(folder) + b"/" + os.fsencode(edit.file)
    content = (folder / change["source"]).read_bytes()
    for how, inner in change["changes"]:
        content = changed(content, how, [inner])
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
    # Moved there, never written through what an earlier drop of that name has become: a link, a pipe.
    whole = folder / "dropped"
    whole.write_bytes(content)
    try:
        os.replace(whole, target)  # noqa: PTH105 (bytes)
    except OSError:  # a folder is there, or the name is too long
        whole.unlink()
        return
    if change["becomes"] is not None:
        with suppress(OSError):  # a name that is too long
            PLACES[change["becomes"]](Path(os.fsdecode(target)))


def apply_edits(folder: Path, edits: Sequence[Edit]) -> None:
    """Damages files of a folder: those of one format in one file together, what is structural before what is not."""
    by_file: dict[str, list[Edit]] = {}
    for edit in edits:
        if edit.how == "drop":
            _apply_drop(folder, edit)
    for edit in (edit for edit in edits if edit.how not in ("seal", "drop", "option")):
        by_file.setdefault(edit.file, []).append(edit)
    for file, wanted in by_file.items():
        path = folder / file
        for how in sorted({edit.how for edit in wanted if edit.how != "place"}, key=lambda how: (how == "bytes", how)):
            if path.is_file():
                changes = [edit.change for edit in wanted if edit.how == how]
                path.write_bytes(changed(path.read_bytes(), how, changes))
        for edit in wanted:
            if edit.how == "place" and path.is_file() and not path.is_symlink():  # what it leads to is not ours
                PLACES[edit.change["becomes"]](path)
    for edit in (edit for edit in edits if edit.how == "seal"):
        SEALS[edit.change["kind"]](folder / edit.file)


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 42)


def _link_outside(path: Path) -> None:
    """Leads to the file beside the place, which no command may touch."""
    path.symlink_to(next(up / "outside" / "secret" for up in path.parents if (up / "outside").is_dir()))


def _renamed(name: str) -> Callable[[Path], None]:
    def rename(path: Path) -> None:
        path.rename(path.with_name(name))

    return rename


def _copied(name: str) -> Callable[[Path], None]:
    """Puts the file there a second time, under a name that nobody gave it."""

    def copy(path: Path) -> None:
        if path.lstat().st_size > _MOST_COPIED:  # zeros that are nowhere would be somewhere
            return
        encoded = name.format(path.stem, path.suffix).encode("utf-8", "surrogateescape")
        shutil.copyfile(path, os.path.join(os.fsencode(path.parent), encoded))  # noqa: PTH118 (bytes)

    return copy


PLACES: dict[str, Callable[[Path], None]] = {
    "nothing": Path.unlink,
    "an empty file": lambda path: os.truncate(path, 0),
    "a folder": _replaced(Path.mkdir),
    "a pipe": _replaced(os.mkfifo),
    "a link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "a link to nothing": _replaced(lambda path: path.symlink_to("nowhere")),
    "a link to an endless device": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to a file outside": _replaced(_link_outside),
    "a link to a folder": _replaced(lambda path: path.symlink_to("/proc/self")),
    "a file of 4 TiB of zeros": _sparse,
    "a file of another name": _renamed("renamed"),
    "two files": _copied("{}\x1b[2J{}"),
    "two files, one of no UTF-8": _copied("{}\udcff{}"),
    "two files, one with a line break": _copied("{}\nharness: error: x{}"),
    "two files, one of a very long name": _copied("{}" + "x" * 180 + "{}"),
    "its own backup": _copied("{}.partial{}"),
}
"""What a file may become instead of a file with its content."""
