"""Whether a checkpoint is what its manifest says: the same files, of the same sizes, with the same content.

Nothing of a checkpoint may be unpickled before `verify_before_load` returned: a flipped bit in a shard loads without
an error, and a replaced `.metadata` or `common.pt` runs whatever it likes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from harness.checkpoint.contents import Progress, contents, file_records
from harness.checkpoint.manifest import Manifest, manifest_or_problem
from harness.errors import CheckpointError

SHARD_SUFFIX = ".distcp"
"""Files with tensors. All others are small, and are always hashed before they are used."""


def verify(path: Path, deep: bool = False, *, progress: Progress | None = None) -> list[str]:
    """Problems of a checkpoint, one line each; none if it is sound. Sizes are compared, with `deep` hashes too."""
    found = manifest_or_problem(path)
    if isinstance(found, str):
        return [found]
    return _problems(path, found, found.files if deep else (), progress)


def verify_before_load(path: Path, *, deep: bool = False, progress: Progress | None = None) -> Manifest:
    """Check sizes of all files and hashes of all but the shards, with `deep` of these too; returns the manifest.

    Shards hold a few pickled objects beside their tensors (random states): use `deep` where the storage is not trusted.

    Raises:
        CheckpointError: it is not sound. Lists every problem.
    """
    found = manifest_or_problem(path)
    if isinstance(found, str):
        problems = [found]
    else:
        hashed = [name for name in found.files if deep or not name.endswith(SHARD_SUFFIX)]
        problems = _problems(path, found, hashed, progress)
        if not problems:
            return found
    raise CheckpointError(
        f"Checkpoint {path} cannot be used:\n"
        + "\n".join(f"  {problem}" for problem in problems)
        + "\nNothing was loaded. Restore its files, or resume from another checkpoint."
    )


def _problems(path: Path, manifest: Manifest, hashed: Collection[str], progress: Progress | None) -> list[str]:
    try:
        found = contents(path)
    except OSError as error:
        return [f"the folder cannot be read: {error.strerror}"]
    problems = [f"{name!r} is {kind}; a checkpoint has regular files only" for name, kind in found.strange.items()]
    for name, record in manifest.files.items():
        if name in found.files and found.files[name] != record.bytes:
            problems.append(f"{name!r} has {found.files[name]:,} bytes, the manifest says {record.bytes:,}")
        elif name not in found.files and name not in found.strange:
            problems.append(f"{name!r} is missing")
    problems += [f"{name!r} is not in the manifest" for name in found.files if name not in manifest.files]
    of_right_size = [name for name in hashed if found.files.get(name) == manifest.files[name].bytes]
    return sorted(problems) + _altered(path, manifest, of_right_size, progress)


def _altered(path: Path, manifest: Manifest, names: Collection[str], progress: Progress | None) -> list[str]:
    try:
        records = file_records(path, names, progress=progress)
    except OSError as error:
        return [f"{Path(str(error.filename or path)).name!r} cannot be read: {error.strerror}"]
    return [
        f"{name!r} was altered: its hash is {record.xxh3}, the manifest says {manifest.files[name].xxh3}"
        for name, record in records.items()
        if record != manifest.files[name]
    ]
