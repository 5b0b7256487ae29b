"""A run's checkpoints on disk: written beside their final name, published by one rename, removed after one rename.

```
checkpoints/step_0012000            a checkpoint: its manifest.json says so
            step_0012000.2          the step was saved again, by a later attempt or beside a damaged folder
            step_0012500.partial    being written, or left over by a crash
            step_0010000.removed    being removed, or left over by a crash
```

A save does not touch existing checkpoints: saving a step again takes the next free number, so the older one is there at
every moment. One rename makes a checkpoint valid, and one rename makes it invalid. Only the process that holds the
run's lock may write, and of its ranks only the first. It checks its fence right before each rename: a writer that was
stopped while another took the run over publishes nothing when it wakes. Between the check and the rename it cannot
publish either. Whoever takes a run over first removes half-written folders, and the token in the name of the folder
(`step_0012500.7.partial`) keeps writers apart.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.errors import CheckpointError, RunTakenOverError, SaveFailedError
from harness.run.checkpoints.choice import CLEAN_ONLY, Choice, Inspect, Resume, choose
from harness.run.checkpoints.contents import bytes_of, contents, file_records
from harness.run.checkpoints.entries import Checkpoint, Entry, entries_in
from harness.run.checkpoints.for_export import Belongings
from harness.run.checkpoints.manifest import MANIFEST_NAME, FileRecord, Health, Manifest, write_manifest
from harness.run.checkpoints.signature import SigningKey
from harness.run.checkpoints.verify import HashFiles, verify
from harness.run.fence import Fence
from harness.run.files import fsync_folder, remove_tree
from harness.run.paths import RunDir

REMOVED_SUFFIX = ".removed"
_LEFTOVER = re.compile(r"step_[0-9]+(\.[0-9]+)?(\.partial|(\.partial)?\.removed)")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run. It keeps no state and reads the disk each time."""

    run_dir: RunDir
    fence: Fence | None = None
    """Fence of the lock that this process holds. None if nobody else can know of the folder, or nothing is written."""
    key: SigningKey | None = None
    """Signs what is written. A checkpoint that it has not signed counts as broken."""

    def begin(self, step: int, *, estimated_bytes: int = 0) -> Path:
        """Make an empty folder for the checkpoint of a step, and remove what a crash may have left there.

        Raises:
            SaveFailedError: There is not enough room for `estimated_bytes`, or the disk refused.
            RunTakenOverError: Another process has taken the run over.
        """
        partial = self._partial_path(step)
        try:
            self._require_held()
            remove_tree(partial, first=MANIFEST_NAME)
            partial.parent.mkdir(parents=True, exist_ok=True)
            status = os.statvfs(partial.parent)
            free_bytes = status.f_bavail * status.f_frsize
            if free_bytes >= estimated_bytes:
                partial.mkdir()
                return partial
        except OSError as error:
            raise SaveFailedError(_not_saved(step, error, partial)) from error
        raise SaveFailedError(
            f"The checkpoint of step {step} was not saved: it needs about {_gib(estimated_bytes)}, and only "
            f"{_gib(free_bytes)} are free in {partial.parent}. Nothing was written, older checkpoints are untouched. "
            "Make room there, or remove checkpoints that are no longer needed."
        )

    def publish(
        self,
        partial: Path,
        manifest: Manifest,
        *,
        belongings: Belongings | None = None,
        records: Mapping[str, FileRecord] | None = None,
    ) -> Path:
        """Turn the files in `partial` into a checkpoint: fsync and hash them, write the manifest, rename the folder.

        All ranks must have closed their files. `belongings` are small files that are written beside theirs. `records`
        are of files that their writers have hashed and synced: those are not read again. One that is not visible here,
        or of another size, fails the save. The manifest's `files` are filled in here.

        Returns:
            The checkpoint's folder: `step_…`, or `step_….2` and so on where the step was saved before.

        Raises:
            SaveFailedError: The disk refused (full, I/O error), or a file is not as written. The partial folder is
                removed as far as possible; older checkpoints are untouched.
            RunTakenOverError: Another process has taken the run over. The partial folder is removed too.
        """
        assert partial == self._partial_path(manifest.step), f"{partial} is not of step {manifest.step}"
        token = self.fence.token if self.fence is not None else None
        try:
            sizes = _write_belongings(partial, belongings or {})
            manifest = manifest.model_copy(update={"fencing_token": token})
            _complete(partial, manifest, records or {}, sizes, self.key)
            final = self._free_path(manifest.step)
            self._require_held()
            partial.rename(final)
        except RunTakenOverError:
            self.discard(partial)
            raise
        except (OSError, CheckpointError) as error:
            self.discard(partial)
            raise SaveFailedError(_not_saved(manifest.step, error, partial)) from error
        try:
            fsync_folder(final.parent)
            fsync_folder(self.run_dir.root)
        except OSError as error:
            raise SaveFailedError(
                f"The checkpoint of step {manifest.step} is complete in {final}, but may not survive a power cut: "
                f"{error.strerror}. Check the file system."
            ) from error
        return final

    def discard(self, partial: Path) -> None:
        """Remove a folder that `begin` made, as far as the disk allows. No other process ever writes into it."""
        with suppress(OSError):
            remove_tree(partial, first=MANIFEST_NAME)

    def list(self) -> Sequence[Entry]:
        """Return every folder named like a checkpoint, by step. Reads manifests, not files; changes nothing."""
        return entries_in(self.run_dir.checkpoints, self.key)

    def choose(
        self,
        resume: Resume,
        *,
        deep: bool = False,
        healths: Collection[Health] = CLEAN_ONLY,
        inspect: Inspect | None = None,
        hash_files: HashFiles | None = None,
    ) -> Choice:
        """Return the checkpoint to resume from, as `harness.run.checkpoints.choice.choose` does.

        This process hashes, unless somebody else does (`hash_files`).

        Raises:
            CheckpointError: As there.
        """
        check = partial(verify, deep=deep, key=self.key, hash_files=hash_files)
        return choose(self.run_dir.checkpoints, resume, check, healths=healths, inspect=inspect, key=self.key)

    def amend(self, entry: Checkpoint, *, health: Health | None = None, pinned: bool | None = None) -> Checkpoint:
        """Change a checkpoint's health or pin in its manifest; a crash leaves the old manifest or the new one.

        Of a link the folder that it leads to is changed.

        Raises:
            CheckpointError: It is linked from another run, whose trainer may amend it at the same time.
            SaveFailedError: The disk refused; the manifest is the old one or the new one.
            RunTakenOverError: Another process has taken the run over.
        """
        if entry.other_run is not None:
            raise CheckpointError(
                f"{entry.path} was not changed: it is a link to {entry.links_to}, a checkpoint of the run "
                f"{entry.other_run}. Change it there."
            )
        changes = {"health": health, "pinned": pinned}
        manifest = entry.manifest.model_copy(update={key: value for key, value in changes.items() if value is not None})
        try:
            self._require_held()
            write_manifest(entry.path, manifest, self.key)
        except OSError as error:
            raise SaveFailedError(f"The manifest of {entry.path} could not be changed: {error.strerror}.") from error
        return replace(entry, manifest=manifest)

    def remove(self, entry: Entry) -> None:
        """Remove a checkpoint. From the first rename on it is not a checkpoint; a crash after that leaves a leftover.

        Of a link only the link goes: the folder that it leads to may serve others.

        Raises:
            CheckpointError: The disk refused. The checkpoint is whole, or gone and a leftover of it remains.
            RunTakenOverError: Another process has taken the run over.
        """
        doomed = entry.path.with_name(entry.path.name + REMOVED_SUFFIX)
        try:
            self._require_held()
            remove_tree(doomed, first=MANIFEST_NAME)
            entry.path.rename(doomed)
            # Durable before a file goes: after a power cut the old name must not come back over half a checkpoint.
            fsync_folder(doomed.parent)
            remove_tree(doomed, first=MANIFEST_NAME)
        except OSError as error:
            raise CheckpointError(f"Checkpoint {entry.path} could not be removed: {error.strerror}.") from error

    def clean_partials(self) -> tuple[Path, ...]:
        """Remove the leftovers of crashes and return them. For the owner of the run's lock, before the first save.

        Raises:
            SaveFailedError: A leftover cannot be removed, so that no save would work either.
            RunTakenOverError: Another process has taken the run over.
        """
        folder = self.run_dir.checkpoints
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        leftovers = tuple(path for path in found if _LEFTOVER.fullmatch(path.name))
        for path in leftovers:
            try:
                self._require_held()
                _remove_leftover(path)
            except OSError as error:
                raise SaveFailedError(
                    f"{path} is left over from a crash and cannot be removed: {error.strerror}. Remove it by hand."
                ) from error
        return leftovers

    def _require_held(self) -> None:
        if self.fence is not None:
            self.fence.require_held()

    def _partial_path(self, step: int) -> Path:
        """Return the folder for writing a step. The token keeps it apart from those of other owners of the run."""
        plain = self.run_dir.partial_checkpoint(step)
        return plain if self.fence is None else plain.with_suffix(f".{self.fence.token}{plain.suffix}")

    def _free_path(self, step: int) -> Path:
        first = path = self.run_dir.checkpoint(step)
        copy = 1
        while os.path.lexists(path):
            copy += 1
            path = first.with_name(f"{first.name}.{copy}")
        return path


def _remove_leftover(path: Path) -> None:
    """Remove a leftover under another name, so that its writer, if it still lives, cannot rename it any more."""
    doomed = path
    if path.suffix != REMOVED_SUFFIX:
        doomed = path.with_name(path.name + REMOVED_SUFFIX)
        remove_tree(doomed, first=MANIFEST_NAME)
        path.rename(doomed)
    remove_tree(doomed, first=MANIFEST_NAME)


def _write_belongings(partial: Path, belongings: Belongings) -> dict[str, int]:
    """Write small files, which are synced and hashed with the others; return their sizes."""
    for name, content in belongings.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(content)
    return {name: len(content) for name, content in belongings.items()}


def _complete(
    partial: Path,
    manifest: Manifest,
    hashed: Mapping[str, FileRecord],
    written: Mapping[str, int],
    key: SigningKey | None,
) -> None:
    """Turn the folder into a checkpoint in everything but its name."""
    found = contents(partial)
    if found.strange or not found.files:
        described = [f"{name!r}, {kind}" for name, kind in sorted(found.strange.items())]
        raise CheckpointError(f"the folder holds {'; '.join(described) or 'no files'}")
    others = found.files.keys() - hashed.keys()
    records = {**hashed, **file_records(partial, others, sync=True, with_sha256=key is not None)}
    sizes = {**written, **{name: record.bytes for name, record in hashed.items()}}
    for name, size in sizes.items():
        if name not in found.files:
            raise CheckpointError(f"{name!r} was written by another process but is not visible in {partial}")
        if (seen := found.files[name]) != size and (seen := bytes_of(partial / name)) != size:
            raise CheckpointError(f"{name!r} was written with {size:,} bytes but has {seen:,} on disk")
    for folder in found.folders:
        fsync_folder(folder)
    write_manifest(partial, manifest.model_copy(update={"files": records}), key)


def _not_saved(step: int, error: Exception, partial: Path) -> str:
    cause, advice = str(error), "Check the file system."
    if isinstance(error, OSError):
        cause = f"{error.strerror} ({error.filename or partial})"
        if error.errno in _NO_ROOM:
            advice = "Make room there, or remove checkpoints that are no longer needed."
    return f"The checkpoint of step {step} was not saved: {cause}. Older checkpoints are untouched. {advice}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 1024**3:,.1f} GiB"
