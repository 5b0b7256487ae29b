"""Keeps snapshots of the state: in the host's memory, and on the node for a start there."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import torch

from harness.checkpoint.node_folder import SnapshotRecord
from harness.errors import CheckpointError
from harness.parallel import collectives
from harness.run.checkpoints.manifest import read_manifest
from harness.train.components.nearby import Nearby, Snapshot
from harness.train.run import Run
from harness.train.saving.saving import manifest
from harness.train.saving.snapshots import take_snapshot
from harness.train.state import TrainState


def keep_snapshot(run: Run, state: TrainState, *, finite: bool) -> None:
    """Copy the state after a step, if that is due. Every rank must call it, with the state that was reached.

    Costs the time of a copy to the host. A state that is not finite is never kept.
    """
    every = run.config.checkpoint.snapshot_every_steps
    if every is None or state.step % every or not finite:
        return
    started_s = time.perf_counter()
    snapshot = take_snapshot(run, state)
    if run.nearby is not None and state.saved is not None:
        _write(run, run.nearby, state, snapshot)
    run.in_flight.snapshot_s += time.perf_counter() - started_s


def remove_snapshots(run: Run, state: TrainState) -> None:
    """Remove the written snapshots at the end of a launch, if a checkpoint contains everything."""
    if run.nearby is not None and state.is_saved:
        run.nearby.remove()


def _write(run: Run, nearby: Nearby, state: TrainState, snapshot: Snapshot) -> None:
    """Begin to write a snapshot, if all ranks have written the last one, and report ranks that cannot write."""
    report = torch.tensor([float(nearby.is_writing), float(nearby.problem is not None)], device=run.device)
    num_busy, num_refused = collectives.sum_over(report).tolist()
    _report_refusals(run, nearby, int(num_refused))
    if num_busy:
        return
    norms = run.optimizer.state_norms()
    record = SnapshotRecord(
        step=snapshot.step,
        attempt=snapshot.attempt,
        start=nearby.start,
        optimizer_steps=snapshot.optimizer_steps,
        manifest=manifest(run, state, norms, 0.0) if run.ranks.is_writer else None,
        parent_saved_at=_saved_at(run, nearby, str(state.checkpoint)) if run.ranks.is_writer else None,
    )
    nearby.write(record, snapshot.tensors)


def _report_refusals(run: Run, nearby: Nearby, num_refused: int) -> None:
    """Report once that snapshots are not written, and once that they are again."""
    if run.recorder is None or (num_refused > 0) == nearby.is_refusal_reported:
        return
    nearby.is_refusal_reported = num_refused > 0
    if num_refused:
        cause = nearby.problem or f"not rank 0, whose folder is {nearby.folder.path}"
        run.recorder.message(f"warning: {num_refused} ranks cannot write their snapshots: {cause}")
    else:
        run.recorder.message("all ranks can write their snapshots again")


def _saved_at(run: Run, nearby: Nearby, checkpoint: str) -> datetime | None:
    """Return when the checkpoint was saved from which training goes on. If it is None the snapshot is never used.

    Its manifest is read once.
    """
    if nearby.parent is None or nearby.parent[0] != checkpoint:
        try:
            manifest = run.desk.do(lambda: read_manifest(Path(checkpoint), run.store.key))
        except (CheckpointError, OSError):
            return None
        nearby.parent = checkpoint, manifest.saved_at
    return nearby.parent[1]
