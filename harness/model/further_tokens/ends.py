"""The embedding that modules on the last pipeline stage read: a replica of that on the first, where it is not tied."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.parallel import collectives
from harness.parallel.mcore import replica_groups


def share_over_ends(weight: nn.Parameter) -> None:
    """Let both ends of a pipeline cut the gradients of an embedding into the same shards."""
    weight.shared_embedding = True  # type: ignore[attr-defined]  # Megatron's mark


def add_up_over_ends(chunks: list[Any]) -> None:
    """Add up the reduced gradients of an embedding that both ends of a pipeline hold, and that is not tied.

    Megatron does it for tied ones. Both ends must call it.
    """
    group = replica_groups().get("ends")
    for chunk in chunks:
        weight = chunk.module.untied_replica
        if weight is not None and group is not None:
            collectives.sum_over(weight.main_grad, group)
