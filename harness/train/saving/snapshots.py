"""Snapshots of the state in the memory of the host, so that a rollback need not read the shared store.

Every rank keeps its share of the model and the optimizer, bit for bit. A snapshot serves a rollback to the checkpoint
of its step: the command, its target and its bookkeeping are those of any rollback, and only the bytes come from memory.
If a rank has none of that step, all ranks load the checkpoint. Nothing depends on a snapshot, so a crash in the middle
of a rollback finds the same target on disk. `harness.train.components.nearby` writes them down for starts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.checkpoint.state.mcore import complete_parameters
from harness.parallel import collectives
from harness.run.checkpoints.manifest import Manifest
from harness.train.components.nearby import Snapshot
from harness.train.run import Run
from harness.train.state import TrainState


def take_snapshot(run: Run, state: TrainState) -> Snapshot:
    """Copy the state, which must be the present one, and keep it. Every rank must call it."""
    kept = run.snapshots
    while len(kept) >= run.config.checkpoint.snapshots_kept:  # before the copy: never more memory than was asked for
        kept.popleft()
    complete_parameters(run.pipeline.chunks)
    tensors = tuple(tensor.detach().to("cpu", copy=True) for tensor in live(run))
    steps = run.optimizer.steps()
    kept.append(Snapshot(step=state.step, attempt=state.attempt, tensors=tensors, optimizer_steps=steps))
    return kept[-1]


def restore_snapshot(run: Run, manifest: Manifest) -> bool:
    """Restore model and optimizer to the state in a checkpoint, if every rank has a snapshot of it.

    Returns whether they have. Every rank must call it and gets the same result. If it is False nothing is touched.
    """
    key = (manifest.step, manifest.attempt)  # the attempt grows whenever a step is repeated
    found = next((each for each in run.snapshots if (each.step, each.attempt) == key), None)
    tensors = tuple(live(run))
    fits = found is not None and [_form(one) for one in found.tensors] == [_form(one) for one in tensors]
    if collectives.is_true_anywhere(not fits):
        return False
    assert found is not None, "this rank has said that it has one"
    with torch.no_grad():
        for tensor, copy in zip(tensors, found.tensors, strict=True):
            tensor.copy_(copy)
    run.optimizer.set_steps(found.optimizer_steps)
    return True


def live(run: Run) -> Iterator[torch.Tensor]:
    """Yield all tensors of this rank's share of a checkpoint, as training uses them."""
    for chunk in run.pipeline.chunks:
        yield from chunk.module.parameters()
        yield from chunk.module.buffers()
    yield from run.optimizer.tensors()


def _form(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
