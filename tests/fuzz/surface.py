"""What a surface is: files that are damaged, and the commands that must then end as documented."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from accepted import Attempt
from forked import Limits
from trees import paths_of

LIGHT = ("harness.cli",)
"""Modules that every command needs."""
OPTION = "{option}"


@dataclass(frozen=True)
class Target:
    """Files that are damaged in a format."""

    pattern: str
    how: str
    weight: float = 1.0


@dataclass(frozen=True)
class Asked:
    """A command. `{file}` in its arguments is the damaged file, `{folder}` its folder, `{option}` the absurd option."""

    name: str
    arguments: Sequence[str]
    codes: Sequence[int] = (0, 64, 65)
    silent: Sequence[int] = ()
    """Codes whose reason is in the output."""
    writes: Sequence[str] = ()
    """What it may change, as patterns of paths; `*` matches slashes too."""
    weight: float = 1.0
    plain: str = ""
    """What the option is if nobody damages it."""
    is_worker: bool = False
    """The trainer itself, alone in its world; the arguments are its own."""


@dataclass(frozen=True)
class Surface:
    """Something that reads files."""

    name: str
    corpus: str
    targets: Sequence[Target]
    asked: Sequence[Asked]
    preload: Sequence[str] = LIGHT
    """Modules that the commands' forks begin with."""
    limits: Limits = field(default_factory=Limits)
    share: float = 1.0
    """Part of the time, compared with the others."""
    seals: Sequence[tuple[str, str]] = ()
    """Folders whose hashes most trials make right again, and how (`seals.SEALS`)."""
    dropped_into: str = ""
    """Folder into which damaged copies of the targets are put, where the targets themselves are left as they are."""
    check: Callable[[Attempt], Iterable[str]] | None = None
    """What is wrong with something that was accepted."""

    def command(self, name: str) -> Asked:
        return next(asked for asked in self.asked if asked.name == name)

    def keys(self, folder: Path) -> list[str]:
        """Keys of the configuration of a corpus, with dots."""
        spelt = yaml.safe_load((folder / "run" / "config.yaml").read_text())
        return [".".join(map(str, path)) for path in paths_of(spelt) if path]

    def files(self, folder: Path) -> list[tuple[str, Target]]:
        """Files that can be damaged, with what they are."""
        found = []
        for target in self.targets:
            paths = sorted(path for path in folder.glob(target.pattern) if path.is_file())
            found += [(path.relative_to(folder).as_posix(), target) for path in paths]
        return found
