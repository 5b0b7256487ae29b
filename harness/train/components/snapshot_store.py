"""Snapshots of this rank's state in the memory of the host."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch

from harness.run.checkpoints.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The share of one rank in the state after a step."""

    step: int
    attempt: int
    tensors: tuple[torch.Tensor, ...]
    """Copies in the host's memory, in the order of `live`."""
    optimizer_steps: tuple[int, ...]
    """Updates that each parameter group of the optimizer has counted."""


@dataclass(kw_only=True)
class Snapshots:
    """The newest snapshots of this rank, the oldest first."""

    kept: deque[Snapshot] = field(default_factory=deque)

    def of(self, manifest: Manifest) -> Snapshot | None:
        """Return the snapshot of the state in a checkpoint. The attempt grows whenever a step is repeated."""
        found = (each for each in self.kept if (each.step, each.attempt) == (manifest.step, manifest.attempt))
        return next(found, None)
