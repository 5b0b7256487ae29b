"""Checks that a checkpoint is as its manifest describes it: the same files, sizes and content.

Nothing of a checkpoint may be unpickled before `verify_before_load` has returned. A flipped bit in a shard loads
without an error, and a replaced `.metadata` or `common.pt` can run any code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from harness.errors import CheckpointError
from harness.plain_pickle import PICKLE_START
from harness.run.checkpoints.contents import Progress, contents, file_records
from harness.run.checkpoints.manifest import FileRecord, Manifest, manifest_or_problem, write_manifest
from harness.run.checkpoints.metadata_pickle import METADATA_NAME
from harness.run.checkpoints.signature import SigningKey
from harness.run.checkpoints.stored_index import read_index
from harness.run.files import UNREADABLE, read_regular

HashFiles = Callable[[Path, Collection[str], bool], Mapping[str, FileRecord]]
"""Returns the records of named files in a folder, with SHA-256 or without. Raises OSError."""
SHARD_SUFFIX = ".distcp"
"""Suffix of the files with tensors. All other files are small and always hashed before they are used."""


def verify(
    path: Path,
    deep: bool = False,
    *,
    key: SigningKey | None = None,
    progress: Progress | None = None,
    hash_files: HashFiles | None = None,
) -> list[str]:
    """Return the problems of a checkpoint, one line each; none if it is sound. With `deep`, hashes are compared too.

    With a key, the manifest must be signed, and the hashes that nobody can forge (SHA-256) are compared as well. This
    process hashes, with `progress`, unless somebody else does (`hash_files`).
    """
    hash_files = hash_files or partial(_hash_here, progress=progress)
    found = manifest_or_problem(path, key)
    if isinstance(found, str):
        return [found]
    return _problems(path, found, found.files if deep else (), is_signed=key is not None, hash_files=hash_files)


def index_problems(path: Path) -> list[str]:
    """Return why the tensors of a checkpoint that `verify` finds sound are not whole by its index, or are not there.

    Whoever wrote the files may have written the manifest too.
    """
    try:
        read_index(path)
    except CheckpointError as error:
        return [str(error)]
    return []


def has_index(path: Path) -> bool:
    """Return whether a checkpoint has an index of tensors, right or wrong. Other files may be kept like checkpoints."""
    try:
        return read_regular(path / METADATA_NAME, 1)[:1] == PICKLE_START
    except OSError:
        return False


def verify_before_load(
    path: Path, *, deep: bool = False, key: SigningKey | None = None, hash_files: HashFiles | None = None
) -> Manifest:
    """Check the sizes of all files and the hashes of all but the shards, with `deep` of all files; return the manifest.

    Shards hold a few pickled objects beside their tensors (random states): use `deep` where the storage is not trusted.
    With a key, the manifest must be signed, and everything is hashed.

    Raises:
        CheckpointError: It is not sound. Lists every problem.
    """
    found = manifest_or_problem(path, key)
    if isinstance(found, str):
        problems = [found]
    else:
        hashed = [name for name in found.files if deep or key is not None or not name.endswith(SHARD_SUFFIX)]
        problems = _problems(path, found, hashed, is_signed=key is not None, hash_files=hash_files or _hash_here)
        if not problems:
            return found
    raise CheckpointError(
        f"Checkpoint {path} cannot be used:\n"
        + "\n".join(f"  {problem}" for problem in problems)
        + "\nNothing was loaded. Restore its files, or resume from another checkpoint."
    )


def sign(path: Path, key: SigningKey, *, progress: Progress | None = None) -> None:
    """Sign a sound checkpoint: the manifest gets the hashes that nobody can forge (SHA-256) and the signature.

    Raises:
        CheckpointError: It is not sound, or the disk refuses; it is as it was.
    """
    manifest = verify_before_load(path)
    try:
        records = file_records(path, manifest.files, with_sha256=True, progress=progress)
        altered = [name for name, record in records.items() if record.xxh3 != manifest.files[name].xxh3]
        if altered:
            raise CheckpointError(f"{path} was not signed: {altered[0]!r} was altered since it was saved.")
        write_manifest(path, manifest.model_copy(update={"files": records}), key)
    except OSError as error:
        raise CheckpointError(f"{path} was not signed: {error.strerror}.") from error


def _problems(
    path: Path, manifest: Manifest, hashed: Collection[str], *, is_signed: bool, hash_files: HashFiles
) -> list[str]:
    try:
        found = contents(path)
    except OSError as error:
        return [f"the folder {UNREADABLE}: {error.strerror}"]
    problems = [f"{name!r} is {kind}; a checkpoint has regular files only" for name, kind in found.strange.items()]
    for name, record in manifest.files.items():
        if name in found.files and found.files[name] != record.bytes:
            problems.append(f"{name!r} has {found.files[name]:,} bytes, the manifest says {record.bytes:,}")
        elif name not in found.files and name not in found.strange:
            problems.append(f"{name!r} is missing")
    problems += [f"{name!r} is not in the manifest" for name in found.files if name not in manifest.files]
    of_right_size = [name for name in hashed if found.files.get(name) == manifest.files[name].bytes]
    return sorted(problems) + _altered(path, manifest, of_right_size, is_signed, hash_files)


def _altered(
    path: Path, manifest: Manifest, names: Collection[str], is_signed: bool, hash_files: HashFiles
) -> list[str]:
    try:
        records = hash_files(path, names, is_signed)
    except OSError as error:
        return [f"{Path(str(error.filename or path)).name!r} {UNREADABLE}: {error.strerror}"]
    problems = []
    for name, record in records.items():
        promised = manifest.files[name]
        if record.xxh3 != promised.xxh3:
            problems.append(f"{name!r} was altered: its hash is {record.xxh3}, the manifest says {promised.xxh3}")
        elif is_signed and record.sha256 != promised.sha256:
            problems.append(f"{name!r} was forged: its XXH3 fits, its SHA-256 does not")
    return problems


def _hash_here(
    path: Path, names: Collection[str], with_sha256: bool, progress: Progress | None = None
) -> Mapping[str, FileRecord]:
    return file_records(path, names, with_sha256=with_sha256, progress=progress)
