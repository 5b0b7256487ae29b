"""Snapshots of each rank on a disk of its node or in its memory, from which a start on the same nodes can go on.

A snapshot adds to a checkpoint. It is used only if the start would go on from the same checkpoint from which training
had gone on when it was taken, under the same configuration and layout, and if every rank finds its share whole.
Otherwise only the shared store counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

import torch

from harness.checkpoint.node_folder import NodeFolder, SnapshotRecord
from harness.config.schema import Config
from harness.parallel import collectives
from harness.plan.plan import Plan
from harness.run import resume_failures
from harness.run.checkpoints.entries import Checkpoint
from harness.run.paths import RunDir
from harness.run.records import last_key
from harness.train.components.found import Start, attempt_after
from harness.train.components.identity import config_hash, versions


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The share of one rank in the state after a step, in memory."""

    step: int
    attempt: int
    tensors: tuple[torch.Tensor, ...]
    """Copies in the host's memory, in the order of `harness.train.saving.snapshots.live`."""
    optimizer_steps: tuple[int, ...]
    """Updates that each parameter group of the optimizer has counted."""


@dataclass(kw_only=True)
class Nearby:
    """A rank's folder, and the thread that writes into it."""

    folder: NodeFolder
    start: str
    kept: int
    """Number of snapshots to keep."""
    problem: str | None = None
    """Reason why the last one was not written, or None."""
    is_refusal_reported: bool = False
    parent: tuple[str, datetime] | None = None
    """The checkpoint from which the last snapshot went on, and when that was saved; on the writer."""
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    _writing: Future[None] | None = None

    @property
    def is_writing(self) -> bool:
        """Return whether the last snapshot is still being written."""
        return self._writing is not None and not self._writing.done()

    def write(self, record: SnapshotRecord, tensors: Sequence[torch.Tensor]) -> None:
        """Write a snapshot in the background, unless the last one is still being written."""
        if not self.is_writing:
            self._writing = self._pool.submit(self._write, record, tensors)

    def _write(self, record: SnapshotRecord, tensors: Sequence[torch.Tensor]) -> None:
        try:
            self.folder.make()
            self.folder.write(record, tensors)
        except OSError as error:
            self.problem = f"{error.strerror} ({error.filename or self.folder.path})"
            return
        self.problem = None
        self.folder.keep([found.name for found in self.folder.records()[: self.kept]])

    def close(self) -> None:
        """Wait for the snapshot that is being written."""
        self._pool.shutdown()

    def remove(self) -> None:
        """Remove the snapshots, because a checkpoint contains everything."""
        self.close()
        self.folder.remove()


def folder_of(config: Config, run_dir: RunDir, rank: int) -> NodeFolder | None:
    """Return the folder for a rank's snapshots, or None if they are not configured."""
    root = config.checkpoint.snapshot_folder
    return None if root is None else NodeFolder.of_rank(root, run_dir, rank)


def nearest(
    start: Start, folder: NodeFolder | None, config: Config, plan: Plan, run_dir: RunDir, *, is_writer: bool
) -> Start:
    """Return the start from the newest snapshot that every rank has whole, or `start`. Every rank must call it."""
    if folder is None or start.entry is None:
        return start
    own = {record.name: record for record in folder.records()}
    of_all = set.intersection(*collectives.gathered(set(own)))
    wanted: list[tuple[SnapshotRecord, int]] = []
    if is_writer and not resume_failures.failures_of(
        run_dir, start.entry.path.name
    ):  # after a failure, without snapshots
        common = (record for name, record in own.items() if name in of_all)
        fitting = [record for record in common if adds_to(record, start.entry, config, plan)]
        wanted = [(each, attempt) for each in fitting if (attempt := attempt_from(each, run_dir)) is not None]
    for record, attempt in collectives.from_rank_0(wanted):
        if not collectives.is_true_anywhere(not folder.is_whole(own[record.name])):
            folder.keep([record.name])
            return replace(start, snapshot=record, attempt=attempt)
        text = f"passed over the snapshot of step {record.step} in {folder.path.parent}: not whole on every rank"
        start = replace(start, passed_over=(*start.passed_over, text))
    folder.remove()
    return start


def attempt_from(record: SnapshotRecord, run_dir: RunDir) -> int | None:
    """Return the attempt in which to go on from a snapshot; None if the metrics do not lead to its step.

    Another start may have trained other steps since, or a lost node may have taken lines with it.
    """
    try:
        if last_key(run_dir.metrics, up_to_step=record.step) != (record.attempt, record.step):
            return None
        return attempt_after(run_dir, record.manifest)
    except OSError:
        return None


def adds_to(record: SnapshotRecord, entry: Checkpoint, config: Config, plan: Plan) -> bool:
    """Return whether a snapshot can replace a checkpoint in this start.

    It must be of the checkpoint's line, and of the present configuration, layout and versions.
    """
    manifest = record.manifest
    return (
        manifest is not None
        and manifest.parent is not None
        and (manifest.parent.step, manifest.parent.attempt) == (entry.step, entry.manifest.attempt)
        and record.parent_saved_at == entry.manifest.saved_at
        and manifest.config_hash == config_hash(config)
        and manifest.versions == versions()
        and manifest.layout == plan.phase_of(manifest.step + 1).layout
    )
