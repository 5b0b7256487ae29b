"""Damage to the files of a folder, drawn at random: what a disk, a copy or a person does to them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

SECTOR = 512
Harm = Callable[[random.Random, Path, list[Path]], None]
"""Called with the file to harm and all files of its folder, itself among them. Always changes something."""


def flip_a_bit(draw: random.Random, file: Path, _: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def zero_a_sector(draw: random.Random, file: Path, files: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    starts = [start for start in range(0, len(content), SECTOR) if any(content[start : start + SECTOR])]
    if not starts:
        return append(draw, file, files)
    start = draw.choice(starts)
    content[start : start + SECTOR] = bytes(len(content[start : start + SECTOR]))
    file.write_bytes(content)
    return None


def truncate(draw: random.Random, file: Path, _: list[Path]) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def empty(_: random.Random, file: Path, __: list[Path]) -> None:
    os.truncate(file, 0)


def append(draw: random.Random, file: Path, _: list[Path]) -> None:
    with file.open("ab") as stream:
        stream.write(draw.randbytes(draw.randrange(1, 2 * SECTOR)))


def delete(_: random.Random, file: Path, __: list[Path]) -> None:
    file.unlink()


def swap(draw: random.Random, file: Path, files: list[Path]) -> None:
    content = file.read_bytes()
    other = draw.choice([path for path in files if path != file and path.read_bytes() != content])
    aside = file.with_name("aside")
    shutil.move(file, aside)
    shutil.move(other, file)
    shutil.move(aside, other)


def repeat_a_sector(draw: random.Random, file: Path, files: list[Path]) -> None:
    """A sector written to the wrong place: another one of the file has its content."""
    content = bytearray(file.read_bytes())
    places = range(0, len(content) - SECTOR + 1, SECTOR)
    source = draw.choice(places) if len(places) > 1 else 0
    different = [place for place in places if content[place : place + SECTOR] != content[source : source + SECTOR]]
    if not different:
        return flip_a_bit(draw, file, files)
    place = draw.choice(different)
    content[place : place + SECTOR] = content[source : source + SECTOR]
    file.write_bytes(content)
    return None


def replace_by_a_link(_: random.Random, file: Path, __: list[Path]) -> None:
    """A symbolic link to the right content, but outside."""
    outside = file.parent.parent.parent / f"outside-{file.name}"
    shutil.move(file, outside)
    file.symlink_to(outside)


def replace_by_a_folder(_: random.Random, file: Path, __: list[Path]) -> None:
    file.unlink()
    file.mkdir()


def add_a_file(draw: random.Random, file: Path, _: list[Path]) -> None:
    file.with_name(f"more-{file.name}").write_bytes(draw.randbytes(100))


HARMS: dict[str, Harm] = {
    "a flipped bit": flip_a_bit,
    "a zeroed sector": zero_a_sector,
    "a sector in the wrong place": repeat_a_sector,
    "a truncated file": truncate,
    "an emptied file": empty,
    "a file with more at its end": append,
    "a deleted file": delete,
    "two files swapped": swap,
    "a file replaced by a link": replace_by_a_link,
    "a file replaced by a folder": replace_by_a_folder,
    "a file too many": add_a_file,
}
