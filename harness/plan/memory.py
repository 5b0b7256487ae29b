"""Estimate of the memory that a rank needs, part by part, in bytes.

Counted: weights; fp32 main gradients; optimizer state, shared out over data- and context-parallel ranks; activations
that backward needs, for all micro-batches in flight; logits of one micro-batch; and what backward makes for a moment
(see `harness.plan.working_memory`). Not counted: CUDA context and communication buffers, the allocator's fragments,
workspaces of libraries, checkpoints being written. Leave about a tenth of the device free for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.schema import Config
from harness.plan.layouts import Layout, layers_per_stage
from harness.plan.parameters import stage_parameters
from harness.plan.working_memory import working_memory

GIB = 1024**3
USABLE_SHARE = 0.9
"""Share of a device's memory that the counted parts may fill."""
OMITTED = "CUDA context, communication buffers, fragmentation and workspaces are not counted"


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank of a pipeline stage."""

    pipeline_rank: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    temporary_bytes: int

    @property
    def total_bytes(self) -> int:
        """All counted parts."""
        model_bytes = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return model_bytes + self.activations_bytes + self.logits_bytes + self.temporary_bytes

    def fits(self, memory_gib: float) -> bool:
        """Return whether the estimate fits a device of this size, with room for what is not counted."""
        return self.total_bytes <= USABLE_SHARE * memory_gib * GIB


def heaviest_rank(config: Config, layout: Layout) -> MemoryEstimate:
    """Return the estimate of the pipeline rank that needs most, in the phase that needs most."""
    return max(estimate_memory(config, layout), key=lambda estimate: estimate.total_bytes)


def estimate_memory(config: Config, layout: Layout) -> tuple[MemoryEstimate, ...]:
    """Estimate the memory of a rank of every pipeline stage, by pipeline rank."""
    stages = layers_per_stage(config)
    value_bytes = 2 if config.precision.dtype == "bf16" else 4
    state_bytes = config.optimizer.kind.state_bytes(config.precision.dtype)
    return tuple(
        MemoryEstimate(
            pipeline_rank=rank,
            weights_bytes=value_bytes * parameters.total,
            gradients_bytes=4 * parameters.total,
            optimizer_bytes=-(-state_bytes * parameters.total // (layout.data * layout.context)),
            **vars(working_memory(config, layout, rank)),
        )
        for rank, parameters in enumerate(stage_parameters(config.model, layout, stages))
    )
