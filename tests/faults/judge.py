"""What a checkpoint is worth, judged without the product's own code: its manifest's sizes and hashes, and its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

_CHECKSUM = re.compile(rb'(.*),\n  "checksum": "([0-9a-f]{16})"\n}\n', re.DOTALL)
"""A manifest: what its last line is the hash of, and the hash."""
_NAME = re.compile(r"step_([0-9]{7,})(?:\.([0-9]+))?")


class Sound(NamedTuple):
    """A checkpoint whose files are what its manifest says. Later ones compare greater."""

    attempt: int
    step: int
    copy: int
    path: Path
    health: str


def is_sound(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder whose files, all of them and no others, have the sizes and hashes that it says."""
    try:
        if (folder / "manifest.json").is_symlink():
            return None
        text = (folder / "manifest.json").read_bytes()
        signed = _CHECKSUM.fullmatch(text)
        if signed is None or xxhash.xxh3_64_hexdigest(signed[1] + b"\n}\n").encode() != signed[2]:
            return None
        manifest = json.loads(text)
        names = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
        }
        if names - {"manifest.json", "manifest.json.partial"} != set(manifest["files"]):
            return None
        for name, record in manifest["files"].items():
            path = folder / name
            content = path.read_bytes()
            if path.is_symlink() or len(content) != record["bytes"]:
                return None
            if xxhash.xxh3_64_hexdigest(content) != record["xxh3"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(manifest)


def sound_checkpoints(checkpoints: Path) -> list[Sound]:
    """All sound checkpoints of a run, the newest first; abandoned ones are none to go on from, but are listed."""
    found = []
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        manifest = is_sound(path) if match else None
        if match is None or manifest is None or manifest["step"] != int(match[1]):
            continue
        found.append(Sound(manifest["attempt"], manifest["step"], int(match[2] or 1), path, manifest["health"]))
    return sorted(found, reverse=True)


def newest(checkpoints: Path) -> Sound | None:
    """The one that the next start must go on from."""
    usable = [sound for sound in sound_checkpoints(checkpoints) if sound.health != "abandoned"]
    return usable[0] if usable else None


def unsound(checkpoints: Path) -> set[str]:
    """Names of folders that are named like checkpoints and are none."""
    named = (
        {path.name for path in checkpoints.iterdir() if _NAME.fullmatch(path.name)} if checkpoints.is_dir() else set()
    )
    return named - {sound.path.name for sound in sound_checkpoints(checkpoints)}
