"""The state to go on from, as rank 0 finds it in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.channels.channels import Channel
from harness.checkpoint.node_folder import SnapshotRecord
from harness.checkpoint.objections import objection_to
from harness.data.fingerprint import recorded_parts
from harness.data.order.cursor import Cursor
from harness.errors import CheckpointError, DataError
from harness.parallel.environment import job_id
from harness.run import resume_failures
from harness.run.checked_parts import CheckedParts, read_checked
from harness.run.checkpoints.choice import Resume
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import Manifest
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import HashFiles
from harness.run.fence import Fence
from harness.run.launch_folder import make_run
from harness.run.lock import RunLock
from harness.run.order_changes import History, num_parts_of
from harness.run.order_file import read_journal, rollbacks_in_journal
from harness.run.own_file import RefusedFileError, require_own_file
from harness.run.paths import RunDir
from harness.run.records import last_key


@dataclass(frozen=True, kw_only=True)
class Start:
    """The findings of rank 0 in the run directory, from which all ranks go on."""

    entry: Checkpoint | None
    passed_over: tuple[str, ...]
    attempt: int
    journal: History
    """Adopted parts and quarantined documents, from the journal of the run."""
    skips: tuple[tuple[int, int], ...] = ()
    """Positions that rollbacks skip for good, from the same journal."""
    channels: tuple[Channel, ...] = ()
    """Channels of all phases by channel id; empty before they are listed."""
    checked_parts: CheckedParts = field(default_factory=dict)
    """Parts that earlier launches have read whole and found sound."""
    snapshot: SnapshotRecord | None = None
    """Snapshot of a later step of the same line that every rank has, as the first rank describes it."""
    remarks: tuple[str, ...] = ()
    """Differences from the checkpoint with which the run may go on, for people; on the writer."""
    name: str = field(default_factory=lambda: uuid4().hex)
    """Distinguishes this start from every other one."""

    @property
    def path(self) -> Path | None:
        """The checkpoint, or None."""
        return self.entry.path if self.entry else None

    @property
    def manifest(self) -> Manifest | None:
        """Manifest of the state to go on from: that of the snapshot, or else of the checkpoint."""
        if self.snapshot is not None:
            return self.snapshot.manifest
        return self.entry.manifest if self.entry else None

    @property
    def has_other_weights(self) -> bool:
        """True if the run has begun, or begins now, with converted weights or a mean, from which training begins anew.

        A run that has taken steps since tells it by the held-out losses from before them.
        """
        manifest = self.manifest
        return manifest is not None and (not manifest.optimizer_norms or manifest.base_losses is not None)

    @property
    def step(self) -> int:
        """Step of that state; 0 if training begins."""
        return self.manifest.step if self.manifest else 0

    @property
    def recorded_data(self) -> Mapping[str, Any] | None:
        """Fingerprint of the data that the run has used so far; None if it has used none."""
        found = None if self.manifest is None else self.manifest.fingerprint.get("data")
        return found if isinstance(found, dict) else None

    @property
    def num_parts(self) -> dict[str, int]:
        """Number of parts of each channel that the run has used so far."""
        if self.manifest is None:
            return num_parts_of(self.journal)
        recorded = recorded_parts(self.manifest.fingerprint)
        return recorded | num_parts_of(Cursor.from_json(self.manifest.cursor).with_changes(self.journal).history)


def take_possession(run_dir: RunDir, closing: ExitStack) -> Fence:
    """Make the run directory and take it. After that nobody else publishes in it.

    Raises:
        RunInUseError: Another process trains in it.
        UsageError: It cannot be made.
    """
    make_run(run_dir)
    return closing.enter_context(RunLock(run_dir, job_id())).fence


def find_start(store: CheckpointStore, resume: Resume, hash_files: HashFiles) -> Start:
    """Find the checkpoint to go on from.

    Raises:
        CheckpointError: There are checkpoints but none can be used; or the journal of the order is not ours.
    """
    run_dir = store.run_dir
    store.clean_partials()
    choice = store.choose(resume, deep=True, healths=("clean", "suspect"), inspect=objection_to, hash_files=hash_files)
    if resume == "auto" and choice.entry is not None:
        resume_failures.require_not_failed_twice(run_dir, choice.entry.path)
    if resume == "never":
        run_dir.order.unlink(missing_ok=True)
        run_dir.checked_parts.unlink(missing_ok=True)
    _require_own_journal(run_dir)
    entry = choice.entry
    return Start(
        entry=entry,
        journal=read_journal(run_dir.order),
        checked_parts=read_checked(run_dir.checked_parts),
        skips=tuple(chain.from_iterable(each.skip_windows for each in rollbacks_in_journal(run_dir.order))),
        passed_over=tuple(f"passed over {path}: {reason}" for path, reason in choice.passed_over),
        attempt=attempt_after(run_dir, entry.manifest if entry else None),
    )


def _require_own_journal(run_dir: RunDir) -> None:
    """Return if nobody else can have written what is quarantined and skipped.

    Raises:
        CheckpointError: The journal belongs to another user, or is no file.
    """
    try:
        require_own_file(run_dir.order, or_owner_of=run_dir.root)
    except (OSError, RefusedFileError) as error:
        raise CheckpointError(
            f"{run_dir.order} {error}. It says which documents and samples the run leaves out, and only the user who "
            "trains may say so. If it is right, make it yours with `chown`; else move it away."
        ) from None


def attempt_after(run_dir: RunDir, manifest: Manifest | None) -> int:
    """Return the attempt in which to go on from a state: a new one if recorded steps will be repeated.

    Raises:
        DataError: The recorded steps cannot be read.
    """
    try:
        recorded = last_key(run_dir.metrics)
    except OSError as error:
        raise DataError(
            f"{run_dir.metrics} cannot be read: {error.strerror}. It says which steps were trained; make it a readable "
            "file, or move it away to go on without the records so far."
        ) from None
    resumed = (manifest.attempt, manifest.step) if manifest else (0, 0)
    if recorded is None or recorded == resumed:
        return resumed[0]
    return max(recorded[0], resumed[0]) + 1
