"""A snapshot of this rank's state in the memory of the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The share of one rank in the state after a step."""

    step: int
    attempt: int
    tensors: tuple[torch.Tensor, ...]
    """Copies in the host's memory, in the order of `live`."""
    optimizer_steps: tuple[int, ...]
    """Updates that each parameter group of the optimizer has counted."""
