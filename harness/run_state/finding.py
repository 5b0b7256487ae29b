"""Finds the runs that a person names: by their own folders, or by a folder that they lie in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.run.paths import RunDir

_MOST_RUNS = 1000


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of one run, or is to be treated so because it holds none."""
    return (folder / "launches").is_dir() or not any(_runs_in(folder))


def find_runs(folders: Sequence[Path]) -> list[RunDir]:
    """Return the runs that are named, and those in folders that are named.

    Raises:
        UsageError: One of the folders is no run, and has none in it, or there are more than a thousand.
    """
    found: list[Path] = []
    for folder in folders:
        runs = [folder] if (folder / "launches").is_dir() else list(_runs_in(folder))
        if not runs:
            raise UsageError(f"{folder} is no run directory, and there is none in it; give runs, or a folder of runs")
        found += runs
    if len(found) > _MOST_RUNS:
        raise UsageError(f"these are {len(found):,} runs; at most {_MOST_RUNS:,} are taken at once, name fewer")
    return [RunDir(folder) for folder in found]


def _runs_in(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder, by name, also those one folder further down."""
    for pattern in ("*/launches", "*/*/launches"):
        yield from sorted(path.parent for path in folder.glob(pattern) if path.is_dir())
